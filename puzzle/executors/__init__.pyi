from puzzle.executors.by_kind import ByKind as ByKind
from puzzle.executors.executor import Executor as Executor
from puzzle.executors.executor import InProcess as InProcess
from puzzle.executors.executor_words import executor_named as executor_named
from puzzle.executors.local_processes import Processes as Processes
from puzzle.executors.local_processes import per_device as per_device
from puzzle.executors.ray_tasks import Ray as Ray
from puzzle.executors.slurm_jobs import Slurm as Slurm
