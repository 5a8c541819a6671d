/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers and distribution functions: see stats.h.
 */
#include "arithmetic.h"
#include "stats.h"

#include <math.h>

void skew_rng_seed(struct skew_rng *rng, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        rng->state[i] = skew_splitmix(&seed);
}

static inline uint64_t rotate(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

uint64_t skew_rng_next(struct skew_rng *rng)
{
    uint64_t *s = rng->state, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

double skew_rng_uniform(struct skew_rng *rng)
{
    return (double)(skew_rng_next(rng) >> 11) * 0x1p-53;
}

double skew_rng_normal(struct skew_rng *rng)
{
    double x, y, r;

    do { /* Marsaglia's polar method; the second number is thrown away to keep no state */
        x = 2 * skew_rng_uniform(rng) - 1;
        y = 2 * skew_rng_uniform(rng) - 1;
        r = x * x + y * y;
    } while (r >= 1 || r == 0);
    return x * sqrt(-2 * log(r) / r);
}

double skew_normal_cdf(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

/* An increasing function inverted on the real line by bracketing and bisection. 80 steps bring it
 * to the last bits; it is called a few times a result, never in a loop. */
static double invert(double (*cdf)(double, double), double parameter, double p, double low)
{
    double high = 1;

    if (!(p > 0) || !(p < 1))
        return p >= 1 ? INFINITY : p <= 0 ? low : NAN;
    if (low < 0)
        for (low = -1; cdf(low, parameter) > p && low > -1e300;)
            low *= 2;
    while (cdf(high, parameter) < p && high < 1e300)
        high *= 2;
    for (int i = 0; i < 80; i++) {
        double middle = (low + high) / 2;
        if (cdf(middle, parameter) < p)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

static double normal_cdf(double x, double unused)
{
    (void)unused;
    return skew_normal_cdf(x);
}

double skew_normal_quantile(double p)
{
    return p == 0.5 ? 0 : invert(normal_cdf, 0, p, -INFINITY);
}

/* lgamma() writes a global. */
static double log_gamma(double x)
{
    int sign;
    return lgamma_r(x, &sign);
}

/* Regularised incomplete beta function by its continued fraction (modified Lentz). */
static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1), h;

    d = 1 / (fabs(d) < tiny ? tiny : d);
    h = d;
    for (int m = 1; m < 500; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 + even * d;
        c = 1 + even / c;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        h *= d * c;
        d = 1 + odd * d;
        c = 1 + odd / c;
        d = 1 / (fabs(d) < tiny ? tiny : d);
        h *= d * c;
        if (fabs(d * c - 1) < 1e-15)
            break;
    }
    return h;
}

static double beta_regularised(double a, double b, double x)
{
    if (x <= 0 || x >= 1)
        return x <= 0 ? 0 : 1;
    double front = exp(log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2))
        return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double skew_student_cdf(double x, double df)
{
    if (df > 1e7)
        return skew_normal_cdf(x);
    double tail = 0.5 * beta_regularised(df / 2, 0.5, df / (df + x * x));
    return x > 0 ? 1 - tail : tail;
}

double skew_student_quantile(double p, double df)
{
    return p == 0.5 ? 0 : invert(skew_student_cdf, df, p, -INFINITY);
}

/* Regularised lower incomplete gamma function: series below a + 1, continued fraction above. */
static double gamma_regularised(double a, double x)
{
    if (x <= 0)
        return 0;
    double front = exp(a * log(x) - x - log_gamma(a));
    if (x < a + 1) {
        double term = 1 / a, sum = term;
        for (int i = 1; i < 10000 && term > sum * 1e-16; i++)
            sum += term *= x / (a + i);
        return front * sum;
    }
    double b = x + 1 - a, c = 1e300, d = 1 / b, h = d;
    for (int i = 1; i < 10000; i++) {
        double an = -i * (i - a);
        b += 2;
        d = 1 / (an * d + b);
        c = b + an / c;
        h *= d * c;
        if (fabs(d * c - 1) < 1e-15)
            break;
    }
    return 1 - front * h;
}

double skew_chi2_cdf(double x, double df)
{
    return gamma_regularised(df / 2, x / 2);
}

double skew_chi2_quantile(double p, double df)
{
    return invert(skew_chi2_cdf, df, p, 0);
}
