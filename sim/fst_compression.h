// What Verilator's FST writer wants of lz4.h and zlib.h, so that traces need neither library installed.
//
// zlib: stored blocks only. The writer keeps the smaller of "compressed" and original, hence the original.
// lz4: a greedy matcher with one hash table. Format: the LZ4 block format description (lz4_Block_format.md).

#ifndef SATEEN_FST_COMPRESSION_H
#define SATEEN_FST_COMPRESSION_H

#include <cstdint>
#include <cstring>
#include <vector>

using Bytef = unsigned char;
using uLong = unsigned long;
using uLongf = unsigned long;
constexpr int Z_OK = 0;

inline uLong compressBound(uLong size) { return size + 5 * (size / 65535 + 1) + 6; }

inline int compress2(Bytef* to, uLongf* to_size, const Bytef* from, uLong size, int) {
    Bytef* out = to;
    *out++ = 0x78;
    *out++ = 0x01;
    uint32_t a = 1, b = 0;  // Adler-32
    for (uLong i = 0; i < size; ++i) b = (b + (a = (a + from[i]) % 65521)) % 65521;
    for (bool last = false; !last;) {
        const uLong n = size < 65535 ? size : 65535;
        last = n == size;
        *out++ = last;
        *out++ = n & 255;
        *out++ = n >> 8;
        *out++ = ~n & 255;
        *out++ = ~n >> 8 & 255;
        std::memcpy(out, from, n);
        out += n, from += n, size -= n;
    }
    for (const uint32_t half : {b, a}) *out++ = half >> 8, *out++ = half & 255;
    *to_size = out - to;
    return Z_OK;
}

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

inline int LZ4_compress_default(const char* from, char* to, int size, int) {
    const auto* in = reinterpret_cast<const uint8_t*>(from);
    auto* out = reinterpret_cast<uint8_t*>(to);
    const auto extend = [&](int n) {  // the rest of a length of 15 and more
        for (n -= 15; n >= 255; n -= 255) *out++ = 255;
        *out++ = n;
    };
    const auto sequence = [&](int literals, int start, int distance, int match) {
        uint8_t* token = out++;
        *token = (literals < 15 ? literals : 15) << 4;
        if (literals >= 15) extend(literals);
        std::memcpy(out, in + start, literals);
        out += literals;
        if (!match) return;
        *out++ = distance & 255;
        *out++ = distance >> 8;
        *token |= match - 4 < 15 ? match - 4 : 15;
        if (match - 4 >= 15) extend(match - 4);
    };
    std::vector<int> table(4096, -1);
    int start = 0, i = 0;
    // A match begins at least 12 bytes, and ends at least 5 bytes, before the end.
    while (i + 12 < size) {
        uint32_t four;
        std::memcpy(&four, in + i, 4);
        int& entry = table[four * 2654435761u >> 20];
        const int candidate = entry;
        entry = i;
        if (candidate < 0 || i - candidate > 65535 || std::memcmp(in + candidate, in + i, 4)) {
            ++i;
            continue;
        }
        int n = 4;
        while (i + n < size - 5 && in[candidate + n] == in[i + n]) ++n;
        sequence(i - start, start, i - candidate, n);
        start = i += n;
    }
    sequence(size - start, start, 0, 0);
    return out - reinterpret_cast<uint8_t*>(to);
}

#endif
