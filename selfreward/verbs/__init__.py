"""What each verb finds out and says."""
