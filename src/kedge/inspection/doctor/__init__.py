"""What one would wish to have checked before the night: a recipe, looked at in a minute."""

from kedge.inspection.doctor.examine import examine
from kedge.inspection.doctor.finding import Finding, Pairs

__all__ = ["Finding", "Pairs", "examine"]
