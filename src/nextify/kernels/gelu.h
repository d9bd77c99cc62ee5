// The normal distribution on vectors, its function and its density, for GELU and its gradient: Phi(x) - 1/2 is
// x P(x²) / Q(x²) on |x| <= LIMIT and ±1/2 beyond, with LIMIT, NUMERATOR and DENOMINATOR from gelu.py. A few
// multiply-adds and one division a vector.

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

// exp(-square / 2) for square >= 0: 2^n times a polynomial on half a binade (Taylor's, error 2e-7 relative).
INLINE Vector bell(Vector square) {
  Vector y = square * -0.7213475204f;  // the exponent to the base 2
  y = choose((Bits)(y < -126.f), same(-126.f), y);
  const Vector shift = same(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest whole number
  const Vector whole = y + shift, n = whole - shift, r = (y - n) * 0.6931471806f;
  Vector e = same(1.f / 720);
  e = e * r + 1.f / 120;
  e = e * r + 1.f / 24;
  e = e * r + 1.f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.f;
  e = e * r + 1.f;
  return (Vector)((Bits)e + ((Bits)whole << 23));
}

// GELU's derivative, given the distribution: Phi(x) + x phi(x).
INLINE Vector slope(Vector x, Vector square, Vector distribution) {
  return distribution + x * bell(square) * 0.3989422804f;
}
