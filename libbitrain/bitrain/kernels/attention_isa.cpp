// Attention over packed rows in the manner of FlashAttention-2 (Dao 2023): tiles of 64 queries by 64 keys,
// online softmax forward, scores computed again backward. A task is one segment and one key-value head, whose
// keys and values are packed once and stay in L2 while the heads that share them pass by.

#include <bitrain/kernels/tile_gemm.h>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

constexpr Index kTile = kPanel;

/// Memory that a thread keeps between calls: fresh pages cost more than the work done on them.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { std::free(memory_); }

  /// Makes room for `bytes` and starts again at the front.
  void reset(Index bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    std::free(memory_);
    size_ = round_up(bytes + bytes / 4, 4096);
    memory_ = static_cast<char*>(std::aligned_alloc(4096, static_cast<std::size_t>(size_)));
    if (memory_ == nullptr) std::abort();
  }
  template <class T>
  T* take(Index count) {
    T* result = reinterpret_cast<T*>(memory_ + used_);
    used_ += bytes_of<T>(count);
    return result;
  }
  template <class T>
  static Index bytes_of(Index count) {
    return round_up(count * static_cast<Index>(sizeof(T)), kCacheLine);
  }

 private:
  char* memory_ = nullptr;
  Index size_ = 0;
  Index used_ = 0;
};

thread_local Arena arena;

inline Index tiles_of(Index length) {
  return (length + kTile - 1) / kTile;
}

/// Sizes that the tasks of one call share.
template <class C>
struct Layout {
  explicit Layout(const AttentionShape& shape)
      : group(shape.heads / shape.kv_heads),
        padded(round_up(shape.head_dim, 16 * kUnit<C>)),
        words(padded / kUnit<C>),
        panels(round_up(padded, kPanel)) {
    for (Index s = 0; s < shape.segments; ++s) {
      longest = max(longest, shape.boundaries[s + 1] - shape.boundaries[s]);
    }
  }

  Index group;        ///< Heads that share a key-value head.
  Index padded;       ///< Elements of a head with padding.
  Index words;        ///< Words of a head.
  Index panels;       ///< Columns of a head when it is the right-hand side of a product.
  Index longest = 0;  ///< Tokens of the longest segment.

  static constexpr Index kTileWords = kTile / kUnit<C>;              ///< Words along the tokens of a tile.
  [[nodiscard]] Index transposed() const { return words * kPanel; }  ///< Floats of a packed X^T tile.
  [[nodiscard]] Index interleaved() const { return kTileWords * panels; }  ///< Floats of a packed X tile.
};

/// Keys that tile `keys` shows to row `query` of the segment, out of the `present` it has.
inline Index visible(bool causal, Index query, Index keys, Index present) {
  return causal ? max(0, min(present, query - keys * kTile + 1)) : present;
}

// ---- Forward

template <class C>
struct ForwardScratch {
  C* rows;         ///< [longest, padded]: keys, then values, then queries.
  float* keys;     ///< Packed K^T tiles.
  float* values;   ///< Packed V tiles.
  float* scores;   ///< [kTile, kTile]
  C* weights;      ///< [kTile, kTile]
  float* sums;     ///< [kTile, panels]
  float* highest;  ///< [kTile]
  float* totals;   ///< [kTile]

  ForwardScratch(const Layout<C>& layout) {
    const Index tiles = tiles_of(layout.longest);
    arena.reset(Arena::bytes_of<C>(max(layout.longest, kTile) * layout.padded) +
                Arena::bytes_of<float>(tiles * layout.transposed()) +
                Arena::bytes_of<float>(tiles * layout.interleaved()) + Arena::bytes_of<float>(kTile * kTile) +
                Arena::bytes_of<C>(kTile * kTile) + Arena::bytes_of<float>(kTile * layout.panels) +
                2 * Arena::bytes_of<float>(kTile));
    rows = arena.take<C>(max(layout.longest, kTile) * layout.padded);
    keys = arena.take<float>(tiles * layout.transposed());
    values = arena.take<float>(tiles * layout.interleaved());
    scores = arena.take<float>(kTile * kTile);
    weights = arena.take<C>(kTile * kTile);
    sums = arena.take<float>(kTile * layout.panels);
    highest = arena.take<float>(kTile);
    totals = arena.take<float>(kTile);
  }
};

// One row of a score tile into softmax weights relative to the running maximum; the row's sums are rescaled
// when the maximum rises.
template <class C>
inline void softmax_row(float* scores, Index seen, float scale, float* highest, float* total, float* sums,
                        Index panels, C* weights) {
  if (seen == 0) {
    std::memset(static_cast<void*>(weights), 0, kTile * sizeof(C));
    return;
  }
  float top = *highest;
#pragma omp simd reduction(max : top)
  for (Index i = 0; i < seen; ++i) {
    const float score = scores[i] * scale;
    scores[i] = score;
    top = score > top ? score : top;
  }
  const float factor = exp(*highest - top);
  float total_here = 0;
  for (Index i = seen; i < kTile; ++i) scores[i] = -__builtin_inff();
#pragma omp simd reduction(+ : total_here)
  for (Index i = 0; i < kTile; ++i) {
    const float weight = exp(scores[i] - top);
    scores[i] = weight;
    total_here += weight;
  }
  convert(scores, kTile, weights);
  *total = *total * factor + total_here;
  *highest = top;
  if (factor != 1.0F) {
#pragma omp simd
    for (Index i = 0; i < panels; ++i) sums[i] *= factor;
  }
}

template <class T>
void attend_tile(const AttentionShape& shape, const Layout<Compute<T>>& layout,
                 const ForwardScratch<Compute<T>>& scratch, ConstRows q, Rows out, float* lse, Index begin,
                 Index length, Index head, Index tile) {
  using C = Compute<T>;
  const Index first = tile * kTile;
  const Index rows = min(kTile, length - first);
  copy_rows(row<T>(q, begin + first) + head * shape.head_dim, q.stride, rows, shape.head_dim, scratch.rows,
            layout.padded);
  std::memset(scratch.sums, 0, static_cast<std::size_t>(kTile * layout.panels) * sizeof(float));
  for (Index r = 0; r < rows; ++r) {
    scratch.highest[r] = -__builtin_inff();
    scratch.totals[r] = 0;
  }
  const Index key_tiles = shape.causal ? tile + 1 : tiles_of(length);
  for (Index keys = 0; keys < key_tiles; ++keys) {
    const Index present = min(kTile, length - keys * kTile);
    tile_gemm<C>(rows, present, layout.words, scratch.rows, layout.padded,
                 scratch.keys + keys * layout.transposed(), scratch.scores, kTile, false);
    for (Index r = 0; r < rows; ++r) {
      softmax_row(scratch.scores + r * kTile, visible(shape.causal, first + r, keys, present), shape.scale,
                  scratch.highest + r, scratch.totals + r, scratch.sums + r * layout.panels, layout.panels,
                  scratch.weights + r * kTile);
    }
    tile_gemm<C>(rows, layout.padded, layout.kTileWords, scratch.weights, kTile,
                 scratch.values + keys * layout.interleaved(), scratch.sums, layout.panels, true);
  }
  for (Index r = 0; r < rows; ++r) {
    const float* sums = scratch.sums + r * layout.panels;
    const float inverse = 1.0F / scratch.totals[r];
    T* target = row<T>(out, begin + first + r) + head * shape.head_dim;
#pragma omp simd
    for (Index i = 0; i < shape.head_dim; ++i) store(target, i, sums[i] * inverse);
    lse[begin + first + r] = scratch.highest[r] + __builtin_logf(scratch.totals[r]);
  }
}

// Query tiles [from, to) of all heads that share key-value head `kv`.
template <class T>
void attend(const AttentionShape& shape, const Layout<Compute<T>>& layout, ConstRows q, ConstRows k,
            ConstRows v, Rows out, float* lse, Index segment, Index kv, Index from, Index to) {
  using C = Compute<T>;
  const Index begin = shape.boundaries[segment];
  const Index length = shape.boundaries[segment + 1] - begin;
  const ForwardScratch<C> scratch(layout);
  const Index readable = shape.causal ? min(length, to * kTile) : length;
  copy_rows(row<T>(k, begin) + kv * shape.head_dim, k.stride, readable, shape.head_dim, scratch.rows,
            layout.padded);
  for (Index tile = 0; tile < tiles_of(readable); ++tile) {
    pack_transposed(scratch.rows + tile * kTile * layout.padded, layout.padded,
                    min(kTile, readable - tile * kTile), scratch.keys + tile * layout.transposed());
  }
  copy_rows(row<T>(v, begin) + kv * shape.head_dim, v.stride, readable, shape.head_dim, scratch.rows,
            layout.padded);
  for (Index tile = 0; tile < tiles_of(readable); ++tile) {
    pack_interleaved(scratch.rows + tile * kTile * layout.padded, layout.padded,
                     min(kTile, readable - tile * kTile), scratch.values + tile * layout.interleaved());
  }
  const Index tokens = shape.boundaries[shape.segments];
  for (Index member = 0; member < layout.group; ++member) {
    const Index head = kv * layout.group + member;
    for (Index tile = from; tile < to; ++tile) {
      attend_tile<T>(shape, layout, scratch, q, out, lse + head * tokens, begin, length, head, tile);
    }
  }
}

}  // namespace

void attention(const AttentionShape& shape, ConstRows q, ConstRows k, ConstRows v, Rows out, float* lse) {
  with_type(shape.type, [&]<class T>(T*) {
    const Layout<Compute<T>> layout(shape);
    // Long segments are cut into runs of query tiles, so that there is work for many threads.
    constexpr Index kRun = 16;
    const Index runs = max(1, (tiles_of(layout.longest) + kRun - 1) / kRun);
#pragma omp parallel for collapse(3) schedule(dynamic, 1)
    for (Index segment = 0; segment < shape.segments; ++segment) {
      for (Index kv = 0; kv < shape.kv_heads; ++kv) {
        for (Index run = 0; run < runs; ++run) {
          const Index tiles = tiles_of(shape.boundaries[segment + 1] - shape.boundaries[segment]);
          if (run * kRun < tiles) {
            attend<T>(shape, layout, q, k, v, out, lse, segment, kv, run * kRun,
                      min(tiles, (run + 1) * kRun));
          }
        }
      }
    }
  });
}

// ---- Backward
//
// With P = exp(scale Q K^T - lse), D = rowsum(dO O): dV = P^T dO, dS = P (dO V^T - D) scale, dQ = dS K,
// dK = dS^T Q. Tiles are kept transposed (keys by queries), so that P^T and dS^T are left-hand sides as they
// stand and a row's statistics are vectors; dQ is summed transposed, too.

namespace {

template <class C>
struct BackwardScratch {
  C* keys;             ///< [longest, padded]
  C* values;           ///< [longest, padded]
  C* keys_transposed;  ///< [tiles][padded][kTile]
  float* key_sums;     ///< [longest, panels]: dK
  float* value_sums;   ///< [longest, panels]: dV
  C* rows;             ///< [kTile, padded]
  float* queries_t;    ///< Packed Q^T, dO^T, Q, dO of one tile.
  float* outs_t;
  float* queries;
  float* outs;
  float* scores;       ///< [kTile, kTile]: S^T, then P^T
  float* slopes;       ///< [kTile, kTile]: dP^T, then dS^T
  C* weights;          ///< [kTile, kTile]: P^T
  C* score_gradients;  ///< [kTile, kTile]: dS^T
  float* packed;       ///< Packed dS^T.
  float* query_sums;   ///< [padded, kTile]: dQ^T
  float* lse;          ///< [kTile]
  float* dots;         ///< [kTile]: D

  BackwardScratch(const Layout<C>& layout) {
    const Index tiles = tiles_of(layout.longest);
    const Index tokens = tiles * kTile;
    Index bytes = 0;
    for (int pass = 0; pass < 2; ++pass) {
      const auto take = [&]<class T>(T*& part, Index count) {
        if (pass == 0) {
          bytes += Arena::bytes_of<T>(count);
        } else {
          part = arena.take<T>(count);
        }
      };
      take(keys, tokens * layout.padded);
      take(values, tokens * layout.padded);
      take(keys_transposed, tokens * layout.padded);
      take(key_sums, tokens * layout.panels);
      take(value_sums, tokens * layout.panels);
      take(rows, kTile * layout.padded);
      take(queries_t, layout.transposed());
      take(outs_t, layout.transposed());
      take(queries, layout.interleaved());
      take(outs, layout.interleaved());
      take(scores, kTile * kTile);
      take(slopes, kTile * kTile);
      take(weights, kTile * kTile);
      take(score_gradients, kTile * kTile);
      take(packed, layout.kTileWords * kTile);
      take(query_sums, max(layout.padded, layout.panels) * kTile);
      take(lse, kTile);
      take(dots, kTile);
      if (pass == 0) arena.reset(bytes);
    }
  }
};

// Words [tokens / unit][columns] to rows [columns][tokens]: the transpose of a packed tile, as a left-hand
// side.
template <class C>
void transpose_packed(const float* packed, Index columns, C* target) {
  for (Index panel = 0; panel < columns; panel += kPanel) {
    const Index width = min(kPanel, columns - panel);
    const float* source = packed + panel * Layout<C>::kTileWords;
    for (Index column = 0; column < width; column += 16) {
      for (Index w = 0; w < Layout<C>::kTileWords; w += 16) {
        float* out = reinterpret_cast<float*>(target + (panel + column) * kTile + w * kUnit<C>);
        transpose16(source + w * kPanel + column, kPanel, out, Layout<C>::kTileWords);
      }
    }
  }
}

// Statistics of a query tile: its lse, and D = rowsum(dO O). Rows beyond the segment get zeros, which makes
// their gradients zero.
template <class T>
void row_statistics(const AttentionShape& shape, ConstRows dout, ConstRows out, const float* lse, Index first,
                    Index rows, Index head, float* tile_lse, float* dots) {
  for (Index r = 0; r < kTile; ++r) {
    tile_lse[r] = 0;
    dots[r] = 0;
    if (r >= rows) continue;
    const T* gradient = row<T>(dout, first + r) + head * shape.head_dim;
    const T* value = row<T>(out, first + r) + head * shape.head_dim;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (Index i = 0; i < shape.head_dim; ++i) dot += load(gradient, i) * load(value, i);
    tile_lse[r] = lse[first + r];
    dots[r] = dot;
  }
}

// S^T, dP^T -> P^T, dS^T for one key; queries before `hidden` do not see it.
inline void score_row(float* scores, float* slopes, const float* lse, const float* dots, float scale,
                      Index hidden) {
#pragma omp simd
  for (Index i = 0; i < kTile; ++i) {
    const float weight = i < hidden ? 0.0F : exp(scores[i] * scale - lse[i]);
    scores[i] = weight;
    slopes[i] = weight * (slopes[i] - dots[i]) * scale;
  }
}

template <class C>
void score_gradients(const BackwardScratch<C>& scratch, bool causal, float scale, Index first_query,
                     Index first_key, Index keys) {
  for (Index r = 0; r < keys; ++r) {
    const Index hidden = causal ? max(0, first_key + r - first_query) : 0;
    score_row(scratch.scores + r * kTile, scratch.slopes + r * kTile, scratch.lse, scratch.dots, scale,
              hidden);
    convert(scratch.scores + r * kTile, kTile, scratch.weights + r * kTile);
    convert(scratch.slopes + r * kTile, kTile, scratch.score_gradients + r * kTile);
  }
  const Index rest = (kTile - keys) * kTile;
  if (rest > 0) std::memset(scratch.slopes + keys * kTile, 0, static_cast<std::size_t>(rest) * sizeof(float));
  if constexpr (sizeof(C) == 4) {
    std::memcpy(scratch.packed, scratch.slopes, kTile * kTile * sizeof(float));
  } else {
    for (Index r = 0; r < kTile; r += 2) {
      pair_rows(scratch.slopes + r * kTile, scratch.slopes + (r + 1) * kTile, kTile,
                scratch.packed + r / 2 * kTile);
    }
  }
}

template <class T>
void backward_tile(const AttentionShape& shape, const Layout<Compute<T>>& layout,
                   const BackwardScratch<Compute<T>>& scratch, ConstRows dout, ConstRows q, ConstRows out,
                   const float* lse, Rows dq, Index begin, Index length, Index head, Index tile) {
  using C = Compute<T>;
  const Index first = tile * kTile;
  const Index rows = min(kTile, length - first);
  copy_rows(row<T>(q, begin + first) + head * shape.head_dim, q.stride, rows, shape.head_dim, scratch.rows,
            layout.padded);
  pack_transposed(scratch.rows, layout.padded, rows, scratch.queries_t);
  pack_interleaved(scratch.rows, layout.padded, rows, scratch.queries);
  copy_rows(row<T>(dout, begin + first) + head * shape.head_dim, dout.stride, rows, shape.head_dim,
            scratch.rows, layout.padded);
  pack_transposed(scratch.rows, layout.padded, rows, scratch.outs_t);
  pack_interleaved(scratch.rows, layout.padded, rows, scratch.outs);
  row_statistics<T>(shape, dout, out, lse, begin + first, rows, head, scratch.lse, scratch.dots);

  const Index key_tiles = shape.causal ? tile + 1 : tiles_of(length);
  for (Index keys = 0; keys < key_tiles; ++keys) {
    const Index first_key = keys * kTile;
    const Index present = min(kTile, length - first_key);
    tile_gemm<C>(present, kTile, layout.words, scratch.keys + first_key * layout.padded, layout.padded,
                 scratch.queries_t, scratch.scores, kTile, false);
    tile_gemm<C>(present, kTile, layout.words, scratch.values + first_key * layout.padded, layout.padded,
                 scratch.outs_t, scratch.slopes, kTile, false);
    score_gradients(scratch, shape.causal, shape.scale, first, first_key, present);
    tile_gemm<C>(present, layout.padded, layout.kTileWords, scratch.weights, kTile, scratch.outs,
                 scratch.value_sums + first_key * layout.panels, layout.panels, true);
    tile_gemm<C>(present, layout.padded, layout.kTileWords, scratch.score_gradients, kTile, scratch.queries,
                 scratch.key_sums + first_key * layout.panels, layout.panels, true);
    tile_gemm<C>(layout.padded, kTile, layout.kTileWords, scratch.keys_transposed + first_key * layout.padded,
                 kTile, scratch.packed, scratch.query_sums, kTile, keys > 0);
  }
  alignas(64) float block[16 * 16];
  for (Index column = 0; column < shape.head_dim; column += 16) {
    const Index width = min(16, shape.head_dim - column);
    for (Index r = 0; r < rows; r += 16) {
      transpose16(scratch.query_sums + column * kTile + r, kTile, block, 16);
      for (Index i = 0; i < min(16, rows - r); ++i) {
        T* target = row<T>(dq, begin + first + r + i) + head * shape.head_dim + column;
        for (Index j = 0; j < width; ++j) store(target, j, block[i * 16 + j]);
      }
    }
  }
}

template <class T>
void attend_backward(const AttentionShape& shape, const Layout<Compute<T>>& layout, ConstRows dout,
                     ConstRows q, ConstRows k, ConstRows v, ConstRows out, const float* lse, Rows dq, Rows dk,
                     Rows dv, Index segment, Index kv) {
  using C = Compute<T>;
  const Index begin = shape.boundaries[segment];
  const Index length = shape.boundaries[segment + 1] - begin;
  const BackwardScratch<C> scratch(layout);
  copy_rows(row<T>(k, begin) + kv * shape.head_dim, k.stride, length, shape.head_dim, scratch.keys,
            layout.padded);
  copy_rows(row<T>(v, begin) + kv * shape.head_dim, v.stride, length, shape.head_dim, scratch.values,
            layout.padded);
  for (Index first = 0; first < length; first += kTile) {  // `queries` is free until the first tile.
    pack_interleaved(scratch.keys + first * layout.padded, layout.padded, min(kTile, length - first),
                     scratch.queries);
    transpose_packed(scratch.queries, layout.padded, scratch.keys_transposed + first * layout.padded);
  }
  const auto sum_bytes = static_cast<std::size_t>(length * layout.panels) * sizeof(float);
  std::memset(scratch.key_sums, 0, sum_bytes);
  std::memset(scratch.value_sums, 0, sum_bytes);
  const Index tokens = shape.boundaries[shape.segments];
  for (Index member = 0; member < layout.group; ++member) {
    const Index head = kv * layout.group + member;
    for (Index tile = 0; tile < tiles_of(length); ++tile) {
      backward_tile<T>(shape, layout, scratch, dout, q, out, lse + head * tokens, dq, begin, length, head,
                       tile);
    }
  }
  for (Index t = 0; t < length; ++t) {
    T* key = row<T>(dk, begin + t) + kv * shape.head_dim;
    T* value = row<T>(dv, begin + t) + kv * shape.head_dim;
#pragma omp simd
    for (Index i = 0; i < shape.head_dim; ++i) store(key, i, scratch.key_sums[t * layout.panels + i]);
#pragma omp simd
    for (Index i = 0; i < shape.head_dim; ++i) store(value, i, scratch.value_sums[t * layout.panels + i]);
  }
}

}  // namespace

void attention_backward(const AttentionShape& shape, ConstRows dout, ConstRows q, ConstRows k, ConstRows v,
                        ConstRows out, const float* lse, Rows dq, Rows dk, Rows dv) {
  with_type(shape.type, [&]<class T>(T*) {
    const Layout<Compute<T>> layout(shape);
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (Index segment = 0; segment < shape.segments; ++segment) {
      for (Index kv = 0; kv < shape.kv_heads; ++kv) {
        attend_backward<T>(shape, layout, dout, q, k, v, out, lse, dq, dk, dv, segment, kv);
      }
    }
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
