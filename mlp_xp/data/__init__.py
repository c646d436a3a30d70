"""Data sets: checked once on the host, then fed to the device."""
