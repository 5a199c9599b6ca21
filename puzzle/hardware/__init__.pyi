from puzzle.hardware.format_speed import fast_format as fast_format
from puzzle.hardware.identity import device_record as device_record
from puzzle.hardware.identity import software_versions as software_versions
from puzzle.hardware.listing import Device as Device
from puzzle.hardware.listing import devices as devices
from puzzle.hardware.precision import FormatChoice as FormatChoice
from puzzle.hardware.precision import Precision as Precision
