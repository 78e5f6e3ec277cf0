// What the simulator found wrong with a kernel: a word for the kind, which tests ask for, and a sentence for people.
#pragma once

namespace sim {

// Records the finding, unless there is one already, with the kernel, block and thread that are running, and gives up the launch
// where it is called from a thread of a kernel; elsewhere it returns. KIND is a word such as "race".
void found(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Gives up the launch after `found`; for threads of a kernel only.
[[noreturn]] void give_up();

bool has_finding();
void clear_finding();
const char* finding_kind();
const char* finding_text();

}  // namespace sim
