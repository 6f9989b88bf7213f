"""The layer of a causal Transformer decoder."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from kt_forecast.nn.attention import Cache, CausalAttention
from kt_forecast.nn.feedforward import FeedForward


class Layer(nn.Module):
    """Attention and feed-forward, each added to a layer-normalised reading of the stream.

    Args:
        attention: reads the steps up to each step.
        width: numbers in a step's vector.
        inner: numbers between the two maps of the feed-forward network.
        dropout: probability of dropping a number of what is added.
    """

    def __init__(
        self, attention: CausalAttention, width: int, *, inner: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, inner, dropout=dropout)

    def init_state(self, batch: int) -> Cache:
        """Return an empty cache."""
        return self.attention.init_state(batch)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        read: Float[Tensor, "batch time width"],
        cache: Cache | None,
        valid: Bool[Tensor, "batch time"] | None,
        reset: Bool[Tensor, "batch time"] | None,
    ) -> tuple[Float[Tensor, "batch time width"], Cache | None]:
        """Return ``x`` after reading ``read``, whose keys and values join the cache."""
        query = self.attention_norm(x)
        source = query if read is x else self.attention_norm(read)
        mixed, cache = self.attention(source, cache, query=query, valid=valid, reset=reset)
        x = x + self.dropout(mixed)
        return x + self.feed(self.feed_norm(x)), cache
