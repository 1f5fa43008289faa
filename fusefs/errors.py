"""What a program can be told when it asks for something that cannot be; errnos.py gives each its number."""


class VolumeError(Exception):
    """A request of a program that cannot be answered as asked."""


class NoEntry(VolumeError):
    """There is no such name."""


class Exists(VolumeError):
    """The name is taken."""


class NotFolder(VolumeError):
    """A folder is needed here."""


class IsFolder(VolumeError):
    """A folder cannot be used like this."""


class NotEmpty(VolumeError):
    """The folder still has entries."""


class NotPermitted(VolumeError):
    """Nobody may do this."""


class ReadOnly(VolumeError):
    """This part of the drive cannot be written to."""


class Invalid(VolumeError):
    """The request makes no sense."""


class NameTooLong(VolumeError):
    """Names have at most 255 bytes, targets of symlinks 4,095."""


class TooManyNames(VolumeError):
    """A node has at most 1,000 names."""


class NoRoomForAttribute(VolumeError):
    """An extended attribute, or all those of a node, are too large."""


class ServerAway(VolumeError):
    """The server did not take it in time; it is kept on this machine, and sent later."""


class NoAttribute(VolumeError):
    """There is no such extended attribute."""


class NotSupported(VolumeError):
    """This is not offered on this drive."""


class TooLarge(VolumeError):
    """The value or file is larger than what can be kept."""


class OverQuota(VolumeError):
    """The server would not take that much."""


class NotSent(VolumeError):
    """What is to be replaced is not on the server yet, and would be lost."""


class OtherSpace(VolumeError):
    """A name cannot lead from one space to another: what is to be there is copied."""


class Mounted(VolumeError):
    """The folder stands for a shared one, which is left, not removed."""


class Overtaken(VolumeError):
    """What was to be repeated for those who watch does not hold any more."""
