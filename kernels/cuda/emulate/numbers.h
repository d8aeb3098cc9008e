// f16 and bf16 for the host: rounded to nearest even, as the device's conversions are.
#pragma once

static inline float widen(f16 value) {
    const unsigned sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31, fraction = value.bits & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}

static inline float widen(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }

// `bits` without its lowest `count` bits, rounded to nearest even.
static inline unsigned rounded_off(unsigned bits, unsigned count) {
    const unsigned half = 1u << (count - 1), kept = bits >> count, rest = bits & ((1u << count) - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

static inline void narrow(float value, f16& out) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    const int exponent = (int)(size >> 23) - 112;
    if (size > 0x7f800000u) {
        out.bits = 0x7fff;
    } else if (exponent >= 31) {
        out.bits = (unsigned short)(sign | 0x7c00u);
    } else if (exponent > 0) {
        // A fraction that rounds up into the exponent is right, up to infinity.
        out.bits = (unsigned short)(sign | rounded_off(size - (112u << 23), 13));
    } else if (exponent < -10) {
        out.bits = (unsigned short)sign;
    } else {
        out.bits = (unsigned short)(sign | rounded_off((size & 0x7fffffu) | 0x800000u, (unsigned)(14 - exponent)));
    }
}

static inline void narrow(float value, bf16& out) {
    const unsigned bits = __float_as_uint(value);
    out.bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fff : (unsigned short)rounded_off(bits, 16);
}
