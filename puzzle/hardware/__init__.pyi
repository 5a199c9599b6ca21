from puzzle.hardware.identity import device_record as device_record
from puzzle.hardware.identity import software_versions as software_versions
from puzzle.hardware.listing import Device as Device
from puzzle.hardware.listing import devices as devices
