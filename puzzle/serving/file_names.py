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
# What a search and a distillation say of a child. It is the child of one of them, not of both.
SEARCHED, DISTILLED = "puzzle_layout.json", "distillation.json"
OTHER_THAN_SEARCHED = {DISTILLED: "a distilled child"}
OTHER_THAN_DISTILLED = {SEARCHED: "the child of a search"}
CHILDREN = {**OTHER_THAN_SEARCHED, **OTHER_THAN_DISTILLED}
# All that a child's directory may consist of.
RECORD_FILES = ("README.md", "generation_config.json", DISTILLED, "layout.json")
CHILD_FILES = (*MODEL_FILES, *TOKENIZER_FILES, *LEGAL_FILES, *RECORD_FILES, "puzzle_l*.json")
