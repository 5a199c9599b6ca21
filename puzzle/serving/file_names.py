"""What the files of a model directory are called."""

# What a tokenizer may consist of; the weights and the config are not among these.
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "*.model",
)
# A single file left over from before would be read instead of new shards.
MODEL_FILES = ("config.json", "model*.safetensors", "*.index.json")
LEGAL_FILES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
# All that a child's directory may consist of.
RECORD_FILES = ("README.md", "generation_config.json", "distillation.json", "layout.json")
CHILD_FILES = (*MODEL_FILES, *TOKENIZER_FILES, *LEGAL_FILES, *RECORD_FILES, "puzzle_l*.json")
