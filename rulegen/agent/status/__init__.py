"""What an agent says about itself to people and programs that ask."""
