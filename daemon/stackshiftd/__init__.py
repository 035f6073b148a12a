"""stackshiftd: the daemon that runs jobs durably. `app` puts the layers together."""
