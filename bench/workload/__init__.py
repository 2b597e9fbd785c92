"""What to ask for: prompts of known lengths, made up or from files, alone or as conversations."""
