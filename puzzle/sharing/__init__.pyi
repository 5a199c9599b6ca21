from puzzle.sharing.index import FILES as FILES
from puzzle.sharing.picked import Picked as Picked
from puzzle.sharing.shared_library import SharedLibrary as SharedLibrary
from puzzle.sharing.writing import push as push
from puzzle.sharing.writing import share as share
