"""Local errors: what a variant misses of the parent's output, as a share of its power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from puzzle.storage.json_values import as_object, field_values


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalError:
    """The local error of one variant on held-out text, stage by stage.

    The error is the power of what the variant misses, as a share of the power of what it should
    return: 0 for the parent's own sublayer, 1 for none at all. An attention is compared with the
    parent's attention, a decoupled FFN with the parent's FFN, and an attention together with the
    FFN coupled to it with what the parent's whole layer adds.

    Args:
        before: Of the Puzzle paper's initialisation, without a fit.
        fitted: After the closed-form fit.
        distilled: After blockwise local distillation; None without it.
        ridge: The ridge that the held-out text chose; None where no fit beat its prior.
    """

    before: float
    fitted: float
    distilled: float | None = None
    ridge: float | None = None

    @property
    def value(self) -> float:
        """The error of the weights as they are."""
        return self.fitted if self.distilled is None else self.distilled

    def after(self, distilled: float) -> LocalError:
        """Returns the error with that after distillation."""
        return replace(self, distilled=distilled)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Mapping[str, Any]]) -> dict[str, LocalError]:
        """Returns the errors of a layer's variants from JSON values.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        return {
            name: cls(**field_values(cls, error))
            for name, error in as_object(values, "errors of a layer").items()
        }
