from puzzle.library.build import BlockLibrary as BlockLibrary
from puzzle.library.build import Library as Library
from puzzle.library.build import build_library as build_library
from puzzle.library.build import heal as heal
from puzzle.library.layers import LibrarySpec as LibrarySpec
from puzzle.library.local_error import LocalError as LocalError
from puzzle.library.settings import BLDConfig as BLDConfig
from puzzle.library.settings import LibraryConfig as LibraryConfig
