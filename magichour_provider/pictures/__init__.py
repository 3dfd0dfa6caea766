"""Pictures of clips for people: poster frames and contact sheets. Needs the extra `pictures`."""
