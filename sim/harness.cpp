// The long run: clock, AXI memory and AXI4-Lite host around the emitted Verilog, at Verilator's native speed.
//
//     Vtop JOB        runs the job and prints one JSON object
//
// A job is lines of "key value"; numbers are decimal. `sateen.sim.verilator` writes it:
//
//     memory BYTES, image PATH     the memory, at offset 0 of which the image is loaded; the rest is zero
//     base ADDRESS                 where the memory begins
//     program OFFSET, watchdog N   what is put in the registers
//     own OFFSET STRIDE            likewise, of a machine with several arrays
//     latency N, interval N        the memory's timing: docs/isa.md, "Memory timing"
//     seed N                       instead: random latency and back-pressure on every channel
//     batch N, inputs PATH, outputs PATH
//     input OFFSET SIZE            once for each region, which the inputs file holds in this order, sample by sample
//     output OFFSET SIZE           likewise
//     cycles N                     give up on a sample after so many cycles
//     read_error OFFSET, write_error OFFSET    beats that answer SLVERR
//     trace PATH                   FST, where built for it
//     events PATH                  what the machine executes, to be shown in the trace: program_trace.h
//     progress N                   a line "progress SAMPLE CYCLES" on stderr every N cycles
//
// Exit codes: 0 all samples ran (also where the accelerator reports an error), 1 the job, 2 a protocol violation,
// 3 a sample did not end. One line on stderr says which.

#include <chrono>
#include <cinttypes>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "registers.h"
#include "verilated.h"
#if VM_TRACE
#include "program_trace.h"
#endif

namespace {

constexpr uint64_t BEAT = sizeof(Vtop::m_axi_rdata);  // bytes; ports of 32 to 512 bits have no padding
constexpr unsigned OKAY = 0, SLVERR = 2, DECERR = 3;

[[noreturn]] void fail(int code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    std::exit(code);
}

struct Region {
    uint64_t offset, size;
};

struct Job {
    uint64_t memory = 0, base = 0, program = 0, watchdog = 0, latency = 16, interval = 1, batch = 1;
    uint64_t cycles = UINT64_MAX, seed = 0, progress = 0;
    bool random = false;
    std::string image, inputs, outputs, trace, events;
    std::vector<Region> input, output, own;
    std::vector<uint64_t> read_errors, write_errors;

    explicit Job(const char* path) {
        std::FILE* file = std::fopen(path, "r");
        if (!file) fail(1, "job %s: cannot be read", path);
        char line[8192];
        while (std::fgets(line, sizeof line, file)) {
            line[std::strcspn(line, "\n")] = 0;
            char* value = std::strchr(line, ' ');
            if (!value) fail(1, "job %s: no value in '%s'", path, line);
            *value++ = 0;
            const std::string key = line;
            char* rest = nullptr;
            const uint64_t number = std::strtoull(value, &rest, 10);
            if (key == "memory") memory = number;
            else if (key == "base") base = number;
            else if (key == "program") program = number;
            else if (key == "watchdog") watchdog = number;
            else if (key == "latency") latency = number;
            else if (key == "interval") interval = number;
            else if (key == "batch") batch = number;
            else if (key == "cycles") cycles = number;
            else if (key == "progress") progress = number;
            else if (key == "seed") random = true, seed = number;
            else if (key == "image") image = value;
            else if (key == "inputs") inputs = value;
            else if (key == "outputs") outputs = value;
            else if (key == "trace") trace = value;
            else if (key == "events") events = value;
            else if (key == "input") input.push_back({number, std::strtoull(rest, nullptr, 10)});
            else if (key == "output") output.push_back({number, std::strtoull(rest, nullptr, 10)});
            else if (key == "own") own.push_back({number, std::strtoull(rest, nullptr, 10)});
            else if (key == "read_error") read_errors.push_back(number);
            else if (key == "write_error") write_errors.push_back(number);
            else fail(1, "job %s: unknown key '%s'", path, line);
        }
        std::fclose(file);
        for (const auto& regions : {input, output})
            for (const Region& r : regions)
                if (r.offset > memory || r.size > memory - r.offset)
                    fail(1, "job %s: region %" PRIu64 "+%" PRIu64 " lies outside the memory", path, r.offset, r.size);
    }
};

/// The memory behind the AXI4 master. `drive` sets the inputs of a cycle, `observe` takes what it brought.
class Memory {
  public:
    std::vector<uint8_t> bytes;

    Memory(const Job& job, Vtop& top) : bytes(job.memory), job_(job), top_(top), state_(job.seed * 2 + 1) {
        if (job.image.empty()) return;
        std::FILE* file = std::fopen(job.image.c_str(), "rb");
        if (!file) fail(1, "memory image %s: cannot be read", job.image.c_str());
        const size_t size = std::fread(bytes.data(), 1, bytes.size(), file);
        if (std::fgetc(file) != EOF) fail(1, "memory image %s: larger than the memory (%zu bytes)", job.image.c_str(), size);
        std::fclose(file);
    }

    void drive(uint64_t t) {
        if (job_.random) {
            top_.m_axi_arready = !stall();
            top_.m_axi_awready = !stall();
        }
        if (!offering_ && !reads_.empty() && t >= read_offer_ && !stall()) {
            offering_ = true;
            const Burst& burst = reads_.front();
            const uint64_t address = burst.address + burst.done * BEAT;
            const bool inside = address - job_.base <= bytes.size() - BEAT && bytes.size() >= BEAT;
            if (inside) std::memcpy(&top_.m_axi_rdata, &bytes[address - job_.base], BEAT);
            else std::memset(&top_.m_axi_rdata, 0, BEAT);
            top_.m_axi_rresp = response(job_.read_errors, address, inside);
            top_.m_axi_rlast = burst.done == burst.beats - 1;
        }
        top_.m_axi_rvalid = offering_;
        // The interval counts from beats of bursts that are not answered yet.
        top_.m_axi_wready = (unanswered_ == 0 || t >= write_offer_) && !stall();
        if (!answering_ && !responses_.empty() && t >= responses_.front().time && !stall()) {
            answering_ = true;
            top_.m_axi_bresp = responses_.front().code;
        }
        top_.m_axi_bvalid = answering_;
    }

    void observe(uint64_t t) {
        const bool was_reading = !reads_.empty();
        if (offering_ && top_.m_axi_rready) {
            Burst& burst = reads_.front();
            offering_ = false;
            last_read_ = t;
            read_offer_ = t + job_.interval;
            if (++burst.done == burst.beats) {
                reads_.pop_front();
                if (!reads_.empty() && reads_.front().first > read_offer_) read_offer_ = reads_.front().first;
            }
        }
        if (top_.m_axi_arvalid && top_.m_axi_arready) {
            check(top_.m_axi_araddr, top_.m_axi_arlen, top_.m_axi_arsize, top_.m_axi_arburst, "AR");
            const uint64_t first = t + job_.latency + extra();
            reads_.push_back({top_.m_axi_araddr, uint64_t(top_.m_axi_arlen) + 1, 0, first});
            if (reads_.size() == 1) {
                read_offer_ = first;
                if (was_reading && last_read_ + job_.interval > first) read_offer_ = last_read_ + job_.interval;
            }
        }
        if (answering_ && top_.m_axi_bready) {
            unanswered_ -= responses_.front().beats;
            responses_.pop_front();
            answering_ = false;
        }
        if (top_.m_axi_awvalid && top_.m_axi_awready) {
            check(top_.m_axi_awaddr, top_.m_axi_awlen, top_.m_axi_awsize, top_.m_axi_awburst, "AW");
            writes_.push_back({top_.m_axi_awaddr, uint64_t(top_.m_axi_awlen) + 1, 0, 0});
            write_code_.push_back(OKAY);
        }
        if (top_.m_axi_wvalid && top_.m_axi_wready) {
            ++unanswered_;
            write_offer_ = t + job_.interval;
            Write write{{}, top_.m_axi_wstrb, bool(top_.m_axi_wlast)};
            std::memcpy(write.data, &top_.m_axi_wdata, BEAT);
            early_.push_back(write);
        }
        while (!early_.empty() && !writes_.empty()) {
            take(early_.front(), t);
            early_.pop_front();
        }
    }

  private:
    struct Burst {
        uint64_t address, beats, done, first;
    };
    struct Write {
        uint8_t data[BEAT];
        uint64_t strobes;
        bool last;
    };
    struct Response {
        uint64_t time, beats;
        unsigned code;
    };

    void take(const Write& write, uint64_t t) {
        Burst& burst = writes_.front();
        const uint64_t address = burst.address + burst.done * BEAT;
        const bool inside = address - job_.base <= bytes.size() - BEAT && bytes.size() >= BEAT;
        if (inside)
            for (uint64_t i = 0; i < BEAT; ++i)
                if (write.strobes >> i & 1) bytes[address - job_.base + i] = write.data[i];
        const unsigned code = response(job_.write_errors, address, inside);
        if (code != OKAY) write_code_.front() = code;
        if (write.last != (++burst.done == burst.beats)) fail(2, "AXI: WLAST at beat %" PRIu64 " of %" PRIu64, burst.done, burst.beats);
        if (write.last) {
            responses_.push_back({t + job_.latency + extra(), burst.beats, write_code_.front()});
            writes_.pop_front();
            write_code_.pop_front();
        }
    }

    unsigned response(const std::vector<uint64_t>& errors, uint64_t address, bool inside) const {
        for (const uint64_t error : errors)
            if (error == address - job_.base) return SLVERR;
        return inside ? OKAY : DECERR;
    }

    static void check(uint64_t address, uint64_t length, unsigned size, unsigned kind, const char* channel) {
        const uint64_t last = address + (length + 1) * BEAT - 1;
        if (kind != 1 || uint64_t(1) << size != BEAT || address % BEAT || address / 4096 != last / 4096)
            fail(2, "AXI: %s burst at %#" PRIx64 ", %" PRIu64 " beats of %u bytes, kind %u, is not legal here", channel,
                 address, length + 1, 1u << size, kind);
    }

    uint64_t random() {  // xorshift64*
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545F4914F6CDD1Dull >> 32;
    }
    bool stall() { return job_.random && random() % 5 < 2; }
    uint64_t extra() { return job_.random ? random() % 16 : 0; }

    const Job& job_;
    Vtop& top_;
    uint64_t state_;
    std::deque<Burst> reads_, writes_;
    std::deque<Write> early_;
    std::deque<unsigned> write_code_;
    std::deque<Response> responses_;
    uint64_t read_offer_ = 0, write_offer_ = 0, last_read_ = 0, unanswered_ = 0;
    bool offering_ = false, answering_ = false;
};

/// The machine with its clock, its memory and a host on AXI4-Lite.
class Bench {
  public:
    explicit Bench(const Job& job) : job_(job), context_(new VerilatedContext), top_(new Vtop(context_.get())), memory_(job, *top_) {
        top_->m_axi_arready = top_->m_axi_awready = 1;
#if VM_TRACE
        if (!job.trace.empty()) {
            context_->traceEverOn(true);
            trace_.reset(new VerilatedFstC);
            top_->trace(trace_.get(), 99);
            if (!job.events.empty()) {
                if (!program_.read(job.events.c_str())) fail(1, "events %s: cannot be read", job.events.c_str());
                program_.declare(*trace_);
            }
            trace_->open(job.trace.c_str());
            if (!trace_->isOpen()) fail(1, "trace %s: cannot be written", job.trace.c_str());
        }
#else
        if (!job.trace.empty()) fail(1, "trace %s: this executable was built without tracing", job.trace.c_str());
#endif
        top_->rst = 1;
        for (int i = 0; i < 4; ++i) cycle();
        top_->rst = 0;
        cycle();
    }

    ~Bench() {
#if VM_TRACE
        if (trace_) trace_->close();
#endif
        top_->final();
    }

    Memory& memory() { return memory_; }
    uint64_t now() const { return t_; }

    void write(uint32_t address, uint32_t value) {
        top_->s_axi_awaddr = address;
        top_->s_axi_wdata = value;
        top_->s_axi_wstrb = 0xF;
        top_->s_axi_awvalid = top_->s_axi_wvalid = top_->s_axi_bready = 1;
        for (int i = 0; top_->s_axi_awvalid || top_->s_axi_wvalid || top_->s_axi_bready; ++i) {
            if (i > 1000) fail(2, "AXI4-Lite: write of register %#x is not answered", address);
            low();
            const bool aw = top_->s_axi_awready, w = top_->s_axi_wready, b = top_->s_axi_bvalid;
            if (b && top_->s_axi_bresp != OKAY) fail(2, "AXI4-Lite: write of register %#x is refused", address);
            high();
            if (aw) top_->s_axi_awvalid = 0;
            if (w) top_->s_axi_wvalid = 0;
            if (b) top_->s_axi_bready = 0;
        }
    }

    uint32_t read(uint32_t address) {
        uint32_t value = 0;
        top_->s_axi_araddr = address;
        top_->s_axi_arvalid = top_->s_axi_rready = 1;
        for (int i = 0; top_->s_axi_arvalid || top_->s_axi_rready; ++i) {
            if (i > 1000) fail(2, "AXI4-Lite: read of register %#x is not answered", address);
            low();
            const bool ar = top_->s_axi_arready, r = top_->s_axi_rvalid;
            if (r && top_->s_axi_rresp != OKAY) fail(2, "AXI4-Lite: read of register %#x is refused", address);
            if (r) value = top_->s_axi_rdata;
            high();
            if (ar) top_->s_axi_arvalid = 0;
            if (r) top_->s_axi_rready = 0;
        }
        return value;
    }

    void run(uint64_t sample) {
        const uint64_t start = t_;
#if VM_TRACE
        program_.begin();
#endif
        uint64_t next_progress = job_.progress ? start + job_.progress : UINT64_MAX;
        const uint64_t end = job_.cycles > UINT64_MAX - start ? UINT64_MAX : start + job_.cycles;
        while (!top_->__SYM__interrupt) {  // Verilator takes "interrupt" for a word of C++
            cycle();
            if (t_ >= next_progress) {
                std::fprintf(stderr, "progress %" PRIu64 " %" PRIu64 "\n", sample, t_ - start);
                next_progress += job_.progress;
            }
            if (t_ >= end) fail(3, "sample %" PRIu64 " did not end within %" PRIu64 " cycles", sample, job_.cycles);
        }
    }

  private:
    void low() {
        memory_.drive(t_);
        top_->clk = 0;
        top_->eval();
#if VM_TRACE
        if (trace_) {
            program_.at(t_, top_->m_axi_arvalid && top_->m_axi_arready);
            trace_->dump(2 * t_);
        }
#endif
        memory_.observe(t_);
    }

    void high() {
        top_->clk = 1;
        top_->eval();
#if VM_TRACE
        if (trace_) trace_->dump(2 * t_ + 1);
#endif
        ++t_;
    }

    void cycle() {
        low();
        high();
    }

    const Job& job_;
    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vtop> top_;
#if VM_TRACE
    ProgramTrace program_;
    std::unique_ptr<VerilatedFstC> trace_;
#endif
    Memory memory_;
    uint64_t t_ = 0;
};

constexpr uint32_t READY = 4;  // in STATUS

void report(Bench& bench, uint64_t sample) {
    const uint64_t low = bench.read(CYCLES_LOW);  // first: it keeps the high word for the next read
    std::printf("%s{\"cycles\": %" PRIu64, sample ? ", " : "", uint64_t(bench.read(CYCLES_HIGH)) << 32 | low);
    std::printf(", \"status\": %u", bench.read(STATUS));
    for (const auto& [name, units] : COUNTERS) {
        std::printf(", \"%s\": [", name);
        const char* separator = "";
        for (const uint32_t address : units) {
            std::printf("%s%u", separator, bench.read(address));
            separator = ", ";
        }
        std::printf("]");
    }
    std::printf(", \"beats_read\": %u", bench.read(BEATS_READ));
    std::printf(", \"beats_written\": %u}", bench.read(BEATS_WRITTEN));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) fail(1, "usage: %s JOB", argv[0]);
    const Job job(argv[1]);
    std::FILE* inputs = nullptr;
    std::FILE* outputs = nullptr;
    if (!job.input.empty() && !(inputs = std::fopen(job.inputs.c_str(), "rb"))) fail(1, "inputs %s: cannot be read", job.inputs.c_str());
    if (!job.output.empty() && !(outputs = std::fopen(job.outputs.c_str(), "wb"))) fail(1, "outputs %s: cannot be written", job.outputs.c_str());

    const auto begin = std::chrono::steady_clock::now();
    uint64_t cycles = 0;
    {
        Bench bench(job);
        bench.write(BASE_LOW, uint32_t(job.base));
        bench.write(BASE_HIGH, uint32_t(job.base >> 32));
        bench.write(PROGRAM, uint32_t(job.program));
        bench.write(WATCHDOG, uint32_t(job.watchdog));
        for (const Region& r : job.own) {
            bench.write(DATA, uint32_t(r.offset));
            bench.write(STRIDE, uint32_t(r.size));
        }
        std::printf("{\"samples\": [");
        for (uint64_t sample = 0; sample < job.batch; ++sample) {
            for (const Region& r : job.input)
                if (std::fread(&bench.memory().bytes[r.offset], 1, r.size, inputs) != r.size) fail(1, "inputs %s: ends in sample %" PRIu64, job.inputs.c_str(), sample);
            bench.write(INTERRUPT, 3);  // enable, clear
            for (int i = 0; !(bench.read(STATUS) & READY); ++i)
                if (i > 100000) fail(3, "sample %" PRIu64 ": the accelerator does not become ready", sample);
            bench.write(CTRL, 1);
            bench.run(sample);
            report(bench, sample);
            for (const Region& r : job.output)
                if (std::fwrite(&bench.memory().bytes[r.offset], 1, r.size, outputs) != r.size) fail(1, "outputs %s: cannot be written", job.outputs.c_str());
            if (job.progress) std::fprintf(stderr, "progress %" PRIu64 " 0\n", sample + 1);
        }
        cycles = bench.now();
    }
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
    std::printf("], \"simulated_cycles\": %" PRIu64 ", \"wall_s\": %.6f}\n", cycles, wall.count());
    if (inputs) std::fclose(inputs);
    if (outputs && std::fclose(outputs)) fail(1, "outputs %s: cannot be written", job.outputs.c_str());
    return 0;
}
