"""The running spread of a stream of rewards."""

from torch import Tensor


class RunningMoments:
    """Mean and variance of everything seen so far, batch by batch (Chan, Golub & LeVeque 1979).

    Used to divide rewards by their running standard deviation, which leaves their sign and zero in place.
    """

    def __init__(self, count: float = 0.0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count = count
        self.mean = mean
        self.squares = squares  # sum of squared deviations from the mean

    @property
    def std(self) -> float:
        """Population standard deviation; 1.0 before two different numbers were seen."""
        std = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return std if std > 1e-12 * abs(self.mean) else 1.0  # equal numbers differ from their mean by a rounding

    def update(self, x: Tensor) -> None:
        """Take in a batch ``[N]``."""
        values = x.detach().cpu().double().flatten()  # not every device has float64
        n = values.numel()
        if n == 0:
            return
        mean = float(values.mean())
        delta = mean - self.mean
        total = self.count + n
        self.squares += float((values - mean).square().sum()) + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint must hold: ``RunningMoments(**state)`` gives it back."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}
