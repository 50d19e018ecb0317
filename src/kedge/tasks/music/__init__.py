"""Tunes in ABC notation: read, judged, heard as MIDI and seen as a score."""
