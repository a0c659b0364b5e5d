// The workers, and the memory that calls share.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace recurra {

// Calls work(context, id, size) on `threads` threads at once, id 0 on this one, and returns when all have.
// The team may turn out smaller than asked for: size says. The threads are those of the OpenMP runtime that
// torch has loaded, for a second pool of spinning threads would slow both; where there is none, they are made
// for the call.
void parallel(int64_t threads, void (*work)(void* context, int id, int size), void* context);

// The name of the runtime whose threads are used: "libgomp.so.1" and the like, or "std::thread".
const char* thread_runtime();

// Scratch memory of the calling thread, kept from one call to the next: fresh memory costs a page fault for
// every 4 KiB of it.
// Nothing here is inline: an inline function compiled in a kernel's unit could be the one that every CPU
// gets.
class Arena {
public:
    Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena();

    // Room for `count` floats, 64-byte aligned, until the next clear(). Throws std::bad_alloc.
    float* floats(int64_t count);
    void* bytes(int64_t count, size_t size);

    // Takes everything back; what was given out in several blocks will fit into one next time.
    void clear();
    // Gives the memory back to the system.
    void release();
    size_t held() const;

private:
    struct Block {
        char* data;
        size_t size;
        Block* before;
    };
    Block* last_;
    size_t used_, total_;
};

Arena& arena();

}  // namespace recurra
