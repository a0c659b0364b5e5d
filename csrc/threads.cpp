#include "threads.h"

#include <stdlib.h>

#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#endif

namespace recurra {
namespace {

// libgomp's entry points, which LLVM's and Intel's runtimes have as well.
struct OpenMP {
    std::string name = "std::thread";
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread)() = nullptr;
    int (*team)() = nullptr;
};

#if defined(__linux__)
template <class F>
void find(void* library, const char* symbol, F& function) {
    function = reinterpret_cast<F>(dlsym(library, symbol));
}

// dl_iterate_phdr's callback: takes the first loaded library that is an OpenMP runtime.
int take_runtime(dl_phdr_info* info, size_t, void* into) {
    const std::string path = info->dlpi_name ? info->dlpi_name : "";
    const std::string name = path.substr(path.find_last_of('/') + 1);
    const bool known =
        name.rfind("libgomp", 0) == 0 || name.rfind("libiomp5", 0) == 0 || name.rfind("libomp", 0) == 0;
    if (!known) return 0;
    void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return 0;
    OpenMP& runtime = *static_cast<OpenMP*>(into);
    find(library, "GOMP_parallel", runtime.parallel);
    find(library, "omp_get_thread_num", runtime.thread);
    find(library, "omp_get_num_threads", runtime.team);
    if (!runtime.parallel || !runtime.thread || !runtime.team) {
        runtime = OpenMP();
        return 0;
    }
    runtime.name = name;
    return 1;
}
#endif

const OpenMP& openmp() {
    static const OpenMP runtime = [] {
        OpenMP found;
#if defined(__linux__)
        dl_iterate_phdr(take_runtime, &found);
#endif
        return found;
    }();
    return runtime;
}

struct Call {
    void (*work)(void*, int, int);
    void* context;
};

}  // namespace

const char* thread_runtime() { return openmp().name.c_str(); }

void parallel(int64_t threads, void (*work)(void*, int, int), void* context) {
    if (threads <= 1) return work(context, 0, 1);
    const OpenMP& runtime = openmp();
    if (runtime.parallel) {
        Call call = {work, context};
        runtime.parallel(
            [](void* data) {
                const Call& c = *static_cast<Call*>(data);
                c.work(c.context, openmp().thread(), openmp().team());
            },
            &call, static_cast<unsigned>(threads), 0);
        return;
    }
    const int size = static_cast<int>(threads);
    std::vector<std::thread> others;
    others.reserve(threads - 1);
    for (int id = 1; id < size; id++) others.emplace_back(work, context, id, size);
    work(context, 0, size);
    for (std::thread& thread : others) thread.join();
}

namespace {

constexpr size_t huge_page = size_t(1) << 21;
constexpr size_t alignment = 64;

// AddressSanitizer is told what was given out, with a gap behind each piece.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t gap = alignment;
void forbid(void* data, size_t size) { __asan_poison_memory_region(data, size); }
void permit(void* data, size_t size) { __asan_unpoison_memory_region(data, size); }
#else
constexpr size_t gap = 0;
void forbid(void*, size_t) {}
void permit(void*, size_t) {}
#endif

}  // namespace

Arena::Arena() : last_(nullptr), used_(0), total_(0) {}

Arena::~Arena() { release(); }

size_t Arena::held() const { return total_; }

float* Arena::floats(int64_t count) { return static_cast<float*>(bytes(count, sizeof(float))); }

void* Arena::bytes(int64_t count, size_t size) {
    if (count < 0 || static_cast<uint64_t>(count) > SIZE_MAX / 2 / size) throw std::bad_alloc();
    const size_t wanted = (count * size + alignment - 1) / alignment * alignment + gap;
    if (!last_ || used_ + wanted > last_->size) {
        const size_t room = (wanted + huge_page - 1) / huge_page * huge_page;
        char* data = static_cast<char*>(aligned_alloc(huge_page, room));
        if (!data) throw std::bad_alloc();
#if defined(__linux__)
        madvise(data, room, MADV_HUGEPAGE);  // advice: where it is not taken, nothing changes
#endif
        forbid(data, room);
        last_ = new Block{data, room, last_};
        used_ = 0;
        total_ += room;
    }
    void* given = last_->data + used_;
    used_ += wanted;
    permit(given, count * size);
    return given;
}

void Arena::clear() {
    if (last_ && last_->before) {
        const size_t total = total_;
        release();
        bytes(static_cast<int64_t>(total), 1);
    }
    if (last_) forbid(last_->data, last_->size);
    used_ = 0;
}

void Arena::release() {
    while (last_) {
        Block* before = last_->before;
        free(last_->data);
        delete last_;
        last_ = before;
    }
    used_ = total_ = 0;
}

Arena& arena() {
    thread_local Arena mine;
    return mine;
}

}  // namespace recurra
