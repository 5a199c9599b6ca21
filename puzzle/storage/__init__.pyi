from puzzle.storage.workspace import Artifact as Artifact
from puzzle.storage.workspace import Workspace as Workspace
