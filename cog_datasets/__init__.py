"""Names to RLDS datasets. Imports no builder: TFDS would register each twice (see register.py)."""
