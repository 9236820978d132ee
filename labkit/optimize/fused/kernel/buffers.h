// Memory that grows and is never given back before its owner.
#pragma once
#include <cstddef>
#include <memory>
#include <new>

#include "product.h"

namespace lk {

// Memory for `count` values or more, at the start of a cache line. Growing loses the contents.
template <class T>
class Buffer {
public:
    T* data() const { return data_.get(); }
    T& operator[](size_t i) const { return data_.get()[i]; }

    void reserve(size_t count) {
        if (count <= size_) return;
        const size_t size = std::max(count, 2 * size_);
        data_.reset(static_cast<T*>(::operator new(size * sizeof(T), kLine)));
        size_ = size;
    }

private:
    static_assert(std::is_trivial_v<T>);
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(T* memory) const { ::operator delete(memory, kLine); }
    };
    std::unique_ptr<T, Free> data_;
    size_t size_ = 0;
};

// Quantized activations with memory of their own.
class Quantized {
public:
    void reserve(int tokens, int columns) {
        const int blocks = columns / kBlock;
        const size_t padded =
            static_cast<size_t>(tokens + kTokenGroup - 1) / kTokenGroup * kTokenGroup;
        data_.reserve(padded * blocks);
        view = {data_.data(), blocks};
    }
    Activations view{};

private:
    Buffer<TokenBlock> data_;
};

} // namespace lk
