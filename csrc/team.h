// Threads that work on one thing together: who has which share, and where they wait for one another.
#pragma once

#include <sched.h>

#include "vec.h"

namespace recurra::RECURRA_ISA {
namespace {

struct alignas(64) Barrier {
    int arrived;
    alignas(64) int phase;

    // Returns when all `size` threads have called it. Spins, for steps are short; yields where it takes long.
    void wait(int size) {
        if (size == 1) return;
        const int now = __atomic_load_n(&phase, __ATOMIC_RELAXED);
        if (__atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL) == size - 1) {
            __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
            __atomic_store_n(&phase, now + 1, __ATOMIC_RELEASE);
            return;
        }
        for (int spins = 0; __atomic_load_n(&phase, __ATOMIC_ACQUIRE) == now; spins++) {
            if (spins > 4000) sched_yield();
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
    }
};

struct Share {
    i64 first, last;
};

struct Team {
    int id, size;
    Barrier* barrier;

    Share share(i64 n) const { return {n * id / size, n * (id + 1) / size}; }
    void wait() const { barrier->wait(size); }
};

// The rows that a thread works on and the blocks of hidden units: with enough rows, some of the rows and all
// of the units; with few, all of the rows and some of the units, and then the team meets after every step.
struct Part {
    bool by_units;
    i64 first_rank, rank_step, rows;  // ranks first_rank, first_rank + rank_step, …: the thread's rows

    i64 rank(i64 i) const { return first_rank + i * rank_step; }
    // How many of the thread's rows are among the lowest `ranks` ranks.
    i64 below(i64 ranks) const { return ranks > first_rank ? ceil_div(ranks - first_rank, rank_step) : 0; }
};

inline bool few_rows(i64 rows, int size) { return size > 1 && rows < 4 * size; }

inline Part part_of(const Team& team, i64 rows) {
    if (few_rows(rows, team.size)) return {true, 0, 1, rows};
    Part part = {false, team.id, team.size, 0};
    part.rows = part.below(rows);
    return part;
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
