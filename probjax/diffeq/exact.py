r"""Stochastic equations whose law is known: Ornstein-Uhlenbeck, geometric, and linear ones.

>>> import jax.numpy as jnp
>>> from probjax.diffeq.exact import gbm_moments, ou_moments
>>> mean, variance = ou_moments(2.0, 1e6, rate=1.3, mean=0.0, scale=0.7)
>>> print(f"{variance:.6f}", gbm_moments(1.0, 1.0, drift=0.0, volatility=0.0, degree=2))
0.188462 [1. 1.]
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from probjax.core import checks, keys


def ou_moments(
    y0: ArrayLike, t: ArrayLike, *, rate: ArrayLike, mean: ArrayLike, scale: ArrayLike
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""Mean and variance of an Ornstein-Uhlenbeck process, $dX=rate\,(mean-X)\,dt+scale\,dW$.

    $$mean+(y_0-mean)\,e^{-rate\,t},\qquad \frac{scale^2}{2\,rate}\big(1-e^{-2\,rate\,t}\big)$$

    Args:
        y0: the start, at time 0.
        t: time, not negative.
        rate: of return; zero is Brownian motion, negative rates run away.
        mean: what it returns to.
        scale: of the noise.

    Returns:
        Mean and variance at `t`.

    Example:
        >>> mean, variance = ou_moments(1.0, 2.0, rate=0.0, mean=0.0, scale=3.0)
        >>> print(mean, variance)
        1.0 18.0
    """
    y0, t, rate, mean, scale = jnp.broadcast_arrays(
        *(jnp.asarray(value, jnp.result_type(float)) for value in (y0, t, rate, mean, scale))
    )
    still = rate == 0
    safe = jnp.where(still, jnp.ones_like(rate), rate)
    spent = jnp.where(still, t, -jnp.expm1(-2 * safe * t) / (2 * safe))
    return mean + (y0 - mean) * jnp.exp(-rate * t), scale**2 * spent


def ou_exact(
    key: keys.PRNGKey,
    y0: Float[Array, "*shape"],
    dt: ArrayLike,
    *,
    num_steps: int,
    rate: ArrayLike,
    mean: ArrayLike,
    scale: ArrayLike,
) -> Float[Array, "rows *shape"]:
    r"""Draw an Ornstein-Uhlenbeck path at equal times, exactly in law whatever the step.

    $$y_{k+1}=mean+(y_k-mean)\,e^{-rate\,dt}
      +scale\,\sqrt{\frac{1-e^{-2\,rate\,dt}}{2\,rate}}\;z_k$$

    Args:
        key: key of the path; step k draws from `fold_in(key, k)`.
        y0: the start; each entry is a process of its own.
        dt: step size, not negative.
        num_steps: steps, at least 1.
        rate: as for `ou_moments`, a number or shaped as `y0`.
        mean: as for `ou_moments`.
        scale: as for `ou_moments`.

    Returns:
        The start and `num_steps` rows.

    Raises:
        ValueError: `num_steps < 1`.

    Example:
        >>> law = dict(rate=1.3, mean=1.0, scale=0.7)
        >>> path = ou_exact(jax.random.key(0), jnp.zeros(20_000), 0.5, num_steps=1, **law)
        >>> print(f"{path[1].mean():.2f} {path[1].var():.2f}")  # 0.478 +- 0.003, 0.137
        0.47 0.14
    """
    num_steps = checks.at_least("num_steps", num_steps, 1)
    key, dtype = keys.as_key(key), y0.dtype
    grown, variance = ou_moments(1.0, dt, rate=rate, mean=0.0, scale=scale)
    decay, width = grown.astype(dtype), jnp.sqrt(variance).astype(dtype)
    mean = jnp.asarray(mean, dtype)

    def step(y: Array, k: Array) -> tuple[Array, Array]:
        z = jax.random.normal(jax.random.fold_in(key, k), y.shape, dtype)
        y = mean + (y - mean) * decay + width * z
        return y, y

    path = jax.lax.scan(step, y0, jnp.arange(num_steps, dtype=jnp.uint32))[1]
    return jnp.concatenate([y0[None], path])


def gbm_exact(
    y0: Float[Array, "*shape"],
    dw: Float[Array, "num_steps ..."],
    dt: ArrayLike,
    *,
    drift: ArrayLike,
    volatility: ArrayLike,
) -> Float[Array, "rows *shape"]:
    r"""Return the path of $dX=drift\,X\,dt+volatility\,X\,dW$ that given increments produce.

    $$y_k=y_0\exp\Big(\big(drift-\tfrac12volatility^2\big)\,k\,dt+volatility\sum_{j\lt k}dw_j\Big)$$

    Args:
        y0: the start.
        dw: increments, a row for each step.
        dt: step size.
        drift: rate of growth.
        volatility: of the noise.

    Returns:
        The start and a row for each step.

    Raises:
        ValueError: rows of `dw` differ from `y0` in shape.

    Example:
        >>> dw = jnp.array([0.1, -0.1])
        >>> path = gbm_exact(jnp.asarray(2.0), dw, 0.5, drift=0.125, volatility=0.5)
        >>> print(path)  # exp(0.05) up, and down again
        [2.       2.102542 2.      ]
    """
    checks.shape("dw", dw, (None, *y0.shape))
    dtype = y0.dtype
    drift, volatility, dt = (jnp.asarray(value, dtype) for value in (drift, volatility, dt))
    steps = jnp.arange(1, dw.shape[0] + 1, dtype=jnp.int32).astype(dtype)
    time = (dt * steps).reshape(-1, *(1,) * y0.ndim)
    walk = (drift - 0.5 * volatility**2) * time + volatility * jnp.cumsum(dw, axis=0)
    return jnp.concatenate([y0[None], y0[None] * jnp.exp(walk)])


def gbm_moments(
    y0: ArrayLike, t: ArrayLike, *, drift: ArrayLike, volatility: ArrayLike, degree: int = 3
) -> Float[Array, "degree"]:
    r"""Moments $\mathbb E[X_t^k]$ of geometric Brownian motion, $k=1,\dots,degree$.

    $$y_0^k\exp\big(k\,drift\,t+\tfrac12k(k-1)\,volatility^2\,t\big)$$

    Args:
        y0: the start, a number.
        t: time.
        drift: as for `gbm_exact`.
        volatility: as for `gbm_exact`.
        degree: how many moments, at least 1.

    Returns:
        The moments.

    Raises:
        ValueError: `degree < 1`.

    Example:
        >>> print(gbm_moments(2.0, 1.0, drift=0.0, volatility=0.0))
        [2. 4. 8.]
    """
    k = jnp.arange(1, checks.at_least("degree", degree, 1) + 1).astype(jnp.result_type(float))
    y0, t, drift, volatility = (jnp.asarray(v, k.dtype) for v in (y0, t, drift, volatility))
    return y0**k * jnp.exp(k * drift * t + 0.5 * k * (k - 1) * volatility**2 * t)


def linear_sde_moments(
    A: Float[Array, "n n"],
    b: Float[Array, "n"],
    Q: Float[Array, "n n"],
    t: ArrayLike,
    *,
    mean: Float[Array, "n"],
    covariance: Float[Array, "n n"],
    num_doublings: int = 0,
) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    r"""Mean and covariance of $dX=(AX+b)\,dt+G\,dW$ with $Q=GG^\top$, by block exponentials.

    $$\exp\begin{pmatrix}A&b\\0&0\end{pmatrix}t=\begin{pmatrix}\Phi&u\\0&1\end{pmatrix},\quad
      \exp\begin{pmatrix}-A&Q\\0&A^\top\end{pmatrix}t=\begin{pmatrix}\cdot&F\\0&\Phi^\top\end{pmatrix}$$

    $$\mathbb E X_t=\Phi\,mean+u,\qquad \mathrm{Cov}\,X_t=\Phi\,covariance\,\Phi^\top+\Phi F$$

    Args:
        A: drift matrix.
        b: constant drift.
        Q: covariance rate of the noise, symmetric.
        t: time, not negative.
        mean: at time 0.
        covariance: at time 0.
        num_doublings: the exponentials are taken of $t/2^{num\_doublings}$ and the step composed
            with itself that often. The second block holds $e^{-At}$: where $\lVert A\rVert t$ is
            above 10 or so, digits are lost without.

    Returns:
        Mean and covariance at `t`.

    Raises:
        ValueError: shapes that do not fit, or a negative `num_doublings`.

    Example:
        >>> one = jnp.ones((1, 1))
        >>> mean, covariance = linear_sde_moments(
        ...     -1.3 * one, jnp.zeros(1), 0.49 * one, 1e3, mean=jnp.ones(1), covariance=0 * one,
        ...     num_doublings=10,
        ... )
        >>> print(mean, covariance)
        [0.] [[0.188461]]

    References:
        Van Loan 1978, *Computing integrals involving the matrix exponential*.
    """
    n = A.shape[0]
    for name, value in (("Q", Q), ("covariance", covariance)):
        checks.same_shape(name, value, "A", A)
    for name, value in (("b", b), ("mean", mean)):
        checks.shape(name, value, (n,))
    checks.at_least("num_doublings", num_doublings, 0)
    step = jnp.asarray(t, A.dtype) / 2**num_doublings
    row = jnp.zeros((1, n + 1), A.dtype)
    first = jnp.concatenate([jnp.concatenate([A, b[:, None]], axis=1), row])
    second = jnp.block([[-A, Q], [jnp.zeros_like(A), A.T]])
    grown, blocks = jax.scipy.linalg.expm(first * step), jax.scipy.linalg.expm(second * step)
    flow, shift = grown[:n, :n], grown[:n, n]
    noise = flow @ blocks[:n, n:]
    for _ in range(num_doublings):
        shift, noise = flow @ shift + shift, flow @ noise @ flow.T + noise
        flow = flow @ flow
    covariance = flow @ covariance @ flow.T + noise
    return flow @ mean + shift, 0.5 * (covariance + covariance.T)
