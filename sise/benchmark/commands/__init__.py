"""The commands: settings checked, typos explained, endings said."""
