"""Errors that a user can mend. The command line prints their message without a traceback."""


class UserError(Exception):
    """What is wrong, where (file, line, key), and what to do about it."""


class JobError(UserError):
    """The job cannot be run as written: an unknown key, a wrong value, an impossible combination."""


class DataError(UserError):
    """A data file or one of its rows cannot be used; the message names file, row and field."""


class EngineError(UserError):
    """The rollout engine cannot start, or its weights are not the trainer's."""


class EngineDied(EngineError):
    """The rollout engine ended and could not be brought back. A run of one process is saved before it stops."""


class WeightSyncError(EngineError):
    """A weight update did not arrive: the message names the tensor or the version that differs."""


class RewardFailure(UserError):
    """A reward broke its contract, or more rewards failed than ``max_error_fraction`` allows."""


class CheckpointError(UserError):
    """No valid checkpoint where one is needed, or one could not be written."""


class TrainingDiverged(UserError):
    """Loss or gradient was not finite for too many steps in a row."""


class RankLost(Exception):
    """Another process of the launch ended while this one waited for it. The command line exits with status 69."""


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM), and stopped after saving. The command line exits with status 75."""
