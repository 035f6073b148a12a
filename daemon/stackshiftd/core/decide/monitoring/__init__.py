"""What people are told without asking: alerts, and runs that are late or missing."""
