"""The ``posttrain`` command: one small file per sub-command."""
