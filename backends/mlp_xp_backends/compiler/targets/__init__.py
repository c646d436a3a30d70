"""Machines that programs are run on."""
