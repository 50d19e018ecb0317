"""What may not be asked or said: rules on prompts and answers, and a log of what they did that shows every change."""
