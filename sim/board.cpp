// The system on the chip with its serial line on a pseudo-terminal, bit by bit.
//
//     Vtop FD DIVISOR    FD: the terminal's other side, inherited; DIVISOR: clock cycles per bit
//
// Runs until the terminal is closed. Where nothing has moved on the line for IDLE cycles the clock stops until the
// host sends something, so that a board that nobody uses takes no processor time.
//
// Exit codes: 0 the terminal was closed, 1 wrong arguments, 2 the chip sent a byte without a stop bit.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr uint64_t IDLE = 4'000'000;  // cycles, many times more than lie between two polls of a host that waits

int terminal, divisor;

/// Whether there is something to read, after at most `milliseconds` (-1: for ever). Ends the program with the terminal.
bool wait(int milliseconds) {
    pollfd p{terminal, POLLIN, 0};
    if (poll(&p, 1, milliseconds) < 0 && errno != EINTR) std::exit(0);
    if (!(p.revents & POLLIN) && (p.revents & (POLLHUP | POLLERR | POLLNVAL))) std::exit(0);
    return p.revents & POLLIN;
}

/// From the host: bytes to levels.
class Sender {
  public:
    bool active() const { return left_ > 0 || next_ < size_; }

    bool level() {
        if (left_ == 0) {
            if (next_ == size_) return true;
            bits_ = unsigned(buffer_[next_++]) << 1 | 1u << 9;
            left_ = 10 * divisor;
        }
        const int bit = 10 - (left_ + divisor - 1) / divisor;
        --left_;
        return bits_ >> bit & 1;
    }

    void fill() {
        if (next_ < size_ || !wait(0)) return;
        const ssize_t n = read(terminal, buffer_, sizeof buffer_);
        if (n < 0 && errno != EAGAIN && errno != EINTR) std::exit(0);
        next_ = 0;
        size_ = n > 0 ? n : 0;
    }

  private:
    uint8_t buffer_[4096];
    ssize_t next_ = 0, size_ = 0;
    unsigned bits_ = 0;
    int left_ = 0;  // cycles of the byte on the line
};

/// To the host: levels to bytes, each sampled in the middle.
class Receiver {
  public:
    bool active() const { return bit_ >= 0; }

    void take(bool level) {
        if (bit_ < 0) {
            if (!level) bit_ = 0, bits_ = 0, waiting_ = divisor / 2;
        } else if (--waiting_ == 0) {
            waiting_ = divisor;
            if (bit_ == 9) {
                if (!level) std::exit(2);
                put(uint8_t(bits_ >> 1));
                bit_ = -1;
            } else {
                bits_ |= unsigned(level) << bit_++;
            }
        }
    }

  private:
    static void put(uint8_t byte) {
        while (write(terminal, &byte, 1) < 0) {
            if (errno != EAGAIN && errno != EINTR) std::exit(0);
            pollfd p{terminal, POLLOUT, 0};
            poll(&p, 1, 100);
            if (p.revents & POLLHUP) std::exit(0);
        }
    }

    int bit_ = -1, waiting_ = 0;
    unsigned bits_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3 || (divisor = std::atoi(argv[2])) < 2) {
        std::fprintf(stderr, "usage: %s FD DIVISOR\n", argv[0]);
        return 1;
    }
    terminal = std::atoi(argv[1]);
    fcntl(terminal, F_SETFL, fcntl(terminal, F_GETFL) | O_NONBLOCK);
    VerilatedContext context;
    Vtop top(&context);
    Sender sender;
    Receiver receiver;
    auto cycle = [&](bool level) {
        top.rx = level;
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    };
    top.rst = 1;
    for (int i = 0; i < 4; ++i) cycle(true);
    top.rst = 0;
    const uint64_t look = 10 * divisor;  // cycles: a byte
    uint64_t last = 0;                   // cycle in which something moved
    for (uint64_t t = 0;; ++t) {
        if (t % look == 0) {
            sender.fill();
            if (t - last > IDLE) {
                wait(-1);
                last = t;
            }
        }
        cycle(sender.level());
        receiver.take(top.tx);
        if (sender.active() || receiver.active()) last = t;
    }
}
