// The chip of link_bench.py, its line driven in segments: each request is a number of segments and, for each, a word
// with the level in bit 31 and the cycles below; each answer the counters and the bytes that came back meanwhile.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

constexpr int DIVISOR = 4;

int main() {
    VerilatedContext context;
    Vtop top(&context);
    std::vector<uint8_t> received;
    int waiting = 0, bit = -1;  // cycles to the next sample; -1 is none, 0 the start bit, 9 the stop bit
    unsigned byte = 0;
    bool fault = false;
    auto cycle = [&](bool level) {
        top.rx = level;
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
        if (bit < 0) {
            if (!top.tx) bit = 0, byte = 0, waiting = DIVISOR / 2;
        } else if (--waiting == 0) {
            waiting = DIVISOR;
            if (bit == 9) {
                fault |= !top.tx;
                received.push_back(byte);
                bit = -1;
            } else if (bit++ > 0) {
                byte |= unsigned(top.tx) << (bit - 2);
            }
        }
    };
    top.rst = 1;
    for (int i = 0; i < 4; ++i) cycle(true);
    top.rst = 0;
    uint32_t count;
    while (std::fread(&count, 4, 1, stdin) == 1) {
        std::vector<uint32_t> segments(count);
        if (std::fread(segments.data(), 4, count, stdin) != count) return 1;
        for (uint32_t s : segments)
            for (uint32_t i = 0; i < (s & 0x7FFFFFFF); ++i) cycle(s >> 31);
        if (fault) return 2;
        const uint32_t head[] = {top.starts, top.resets, uint32_t(top.run_base), top.run_program, uint32_t(received.size())};
        std::fwrite(head, 4, 5, stdout);
        std::fwrite(received.data(), 1, received.size(), stdout);
        std::fflush(stdout);
        received.clear();
    }
}
