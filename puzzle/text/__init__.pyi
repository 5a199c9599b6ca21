from puzzle.text.data_config import DataConfig as DataConfig
from puzzle.text.packing import PackedStream as PackedStream
from puzzle.text.text_mix import TextMix as TextMix
from puzzle.text.windows import Windows as Windows
from puzzle.text.windows import documents as documents
