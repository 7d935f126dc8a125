"""The skeleton that all jobs share: stages, record, lock, log, failure, launcher; no job and no suite is known here."""
