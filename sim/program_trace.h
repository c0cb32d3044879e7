// What the machine executes, as signals of a trace beside the RTL's: by unit the opcode and the layer, by name, and the
// layer whose end the run is at. Read from a file of lines "key value", which sateen.sim.waveform writes:
//
//     first CYCLE              of a run, in which the memory gets the first address: runs are aligned by it
//     unit NAME                in the order of their numbers
//     opcode NAME, layer NAME  in the order of their numbers, from 1 on; 0 is none
//     event UNIT START END OPCODE LAYER     an instruction, in order of START for each unit; END is its last cycle
//     span START LAYER         the layer that ends next, from this cycle on

#ifndef SATEEN_PROGRAM_TRACE_H
#define SATEEN_PROGRAM_TRACE_H

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "verilated_fst_c.h"

class ProgramTrace {
  public:
    /// Whether the file is there and can be read.
    bool read(const char* path) {
        std::FILE* file = std::fopen(path, "r");
        if (!file) return false;
        char line[4096];
        while (std::fgets(line, sizeof line, file)) {
            line[std::strcspn(line, "\n")] = 0;
            char* value = std::strchr(line, ' ');
            if (!value) continue;
            *value++ = 0;
            const std::string key = line;
            if (key == "first") first_ = std::strtoull(value, nullptr, 10);
            else if (key == "unit") units_.push_back({value});
            else if (key == "opcode") opcodes_.push_back(value);
            else if (key == "layer") layers_.push_back(value);
            else if (key == "event" || key == "span") {
                uint64_t n[5] = {};
                char* at = value;
                for (uint64_t& x : n) x = std::strtoull(at, &at, 10);
                if (key == "span") spans_.push_back({n[0], UINT64_MAX, 0, uint32_t(n[1])});
                else if (n[0] < units_.size()) units_[n[0]].events.push_back({n[1], n[2], uint32_t(n[3]), uint32_t(n[4])});
            }
        }
        std::fclose(file);
        return true;
    }

    void declare(VerilatedFstC& trace) {
        trace.spTrace()->addInitCb(initialize, this, "program", false, 1 + 2 * units_.size());
        trace.spTrace()->addFullCb(dump, 0, this);
        trace.spTrace()->addChgCb(dump, 0, this);
    }

    /// A run is about to start.
    void begin() {
        running_ = false;
        for (Unit& u : units_) u.next = 0;
        span_ = 0;
    }

    /// A new cycle; `address` says that memory is given one to read from.
    void at(uint64_t cycle, bool address) {
        if (!running_ && address) running_ = true, start_ = cycle - first_;
        for (Unit& u : units_) {
            u.now = {};
            if (!running_) continue;
            while (u.next < u.events.size() && u.events[u.next].end + start_ < cycle) ++u.next;
            if (u.next < u.events.size() && u.events[u.next].start + start_ <= cycle) u.now = u.events[u.next];
        }
        while (running_ && span_ + 1 < spans_.size() && spans_[span_ + 1].start + start_ <= cycle) ++span_;
        layer_ = running_ && !spans_.empty() ? spans_[span_].layer : 0;
    }

  private:
    struct Event {
        uint64_t start = 0, end = 0;
        uint32_t opcode = 0, layer = 0;
    };
    struct Unit {
        std::string name;
        std::vector<Event> events = {};
        size_t next = 0;
        Event now = {};
    };
    static constexpr int BITS = 16;

    static void enumerate(VerilatedFst* trace, int type, const char* name, const std::vector<std::string>& names) {
        std::vector<std::string> values;
        std::vector<const char*> texts{"-"}, bits;
        for (size_t i = 0; i <= names.size(); ++i) {
            std::string text;
            for (int b = BITS; b--;) text += i >> b & 1 ? '1' : '0';
            values.push_back(text);
            if (i) texts.push_back(names[i - 1].c_str());
        }
        for (const std::string& v : values) bits.push_back(v.c_str());
        trace->declDTypeEnum(type, name, texts.size(), BITS, texts.data(), bits.data());
    }

    static void initialize(void* self, VerilatedFst* trace, uint32_t base) {
        auto& p = *static_cast<ProgramTrace*>(self);
        p.base_ = base;
        const auto bus = [&](const std::string& name, int type) {
            trace->declBus(base++, name.c_str(), type, VerilatedTraceSigDirection::NONE, VerilatedTraceSigKind::WIRE,
                           VerilatedTraceSigType::LOGIC, BITS - 1, 0);
        };
        trace->pushPrefix("program", VerilatedTracePrefixType::SCOPE_MODULE);
        enumerate(trace, 1, "layer", p.layers_);
        enumerate(trace, 2, "opcode", p.opcodes_);
        bus("layer", 1);
        for (const Unit& u : p.units_) {
            bus(u.name + "_opcode", 2);
            bus(u.name + "_layer", 1);
        }
        trace->popPrefix();
    }

    static void dump(void* self, VerilatedFst::Buffer* buffer) {
        auto& p = *static_cast<ProgramTrace*>(self);
        uint32_t code = p.base_;
        const auto put = [&](uint32_t value) {
            if (p.written_) buffer->chgIData(buffer->oldp(code), value, BITS);
            else buffer->fullIData(buffer->oldp(code), value, BITS);
            ++code;
        };
        put(p.layer_);
        for (const Unit& u : p.units_) {
            put(u.now.opcode);
            put(u.now.layer);
        }
        p.written_ = true;
    }

    uint64_t first_ = 0, start_ = 0;
    std::vector<Unit> units_;
    std::vector<std::string> opcodes_, layers_;
    std::vector<Event> spans_;
    size_t span_ = 0;
    uint32_t layer_ = 0, base_ = 0;
    bool running_ = false;
    bool written_ = false;
};

#endif
