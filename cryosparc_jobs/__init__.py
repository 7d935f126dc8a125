"""Jobs of cryodrgn-ext as External jobs of CryoSPARC, through its own client, cryosparc-tools.

Credentials are never taken as arguments, written or logged: the client finds them in its own token store (``python -m
cryosparc.tools login``) or in its environment variables.
"""
