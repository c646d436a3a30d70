"""``python -m mlp_xp_backends``: print which backends this machine can use, and what the others lack."""

from __future__ import annotations

from mlp_xp_backends.info import report

if __name__ == "__main__":
    print(report())
