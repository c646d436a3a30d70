"""The trainer: epochs of compiled steps on any device."""
