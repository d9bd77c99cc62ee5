// The normal distribution function on vectors, for GELU: Phi(x) - 1/2 is x P(x²) / Q(x²) on |x| <= LIMIT and ±1/2 beyond,
// with LIMIT, NUMERATOR and DENOMINATOR from gelu.py. A few multiply-adds and one division a vector.

#pragma once

#include "simd.h"

INLINE Vector choose(Bits mask, Vector yes, Vector no) { return (Vector)((mask & (Bits)yes) | (~mask & (Bits)no)); }

constexpr float P[] = {NUMERATOR}, Q[] = {DENOMINATOR};  // from gelu.py, the highest power first

INLINE Vector distribution(Vector x, Vector square) {
  Vector p = same(P[0]), q = same(Q[0]);
  for (int i = 1; i < 6; ++i) p = p * square + P[i], q = q * square + Q[i];
  const Vector inside = x * p / q + 0.5f;
  return choose((Bits)(x > LIMIT), same(1.f), choose((Bits)(x < -LIMIT), same(0.f), inside));
}
