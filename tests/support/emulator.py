"""The emulator of the OSS vector service, one process for each test run."""
