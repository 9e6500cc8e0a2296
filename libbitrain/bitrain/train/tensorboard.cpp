#include <bitrain/train/tensorboard.h>

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include <bitrain/base/error.h>
#include <bitrain/train/crc32c.h>

namespace bitrain::train {
namespace {

// The few shapes of protobuf's wire format that an Event needs.
enum class WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

template <class Integer>
void append_little_endian(std::string& out, Integer value) {
  for (std::size_t i = 0; i < sizeof(Integer); ++i)
    out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

void append_tag(std::string& out, std::uint32_t field, WireType type) {
  append_varint(out, (field << 3) | static_cast<std::uint32_t>(type));
}

void append_double(std::string& out, std::uint32_t field, double value) {
  append_tag(out, field, WireType::kFixed64);
  append_little_endian(out, std::bit_cast<std::uint64_t>(value));
}

void append_float(std::string& out, std::uint32_t field, float value) {
  append_tag(out, field, WireType::kFixed32);
  append_little_endian(out, std::bit_cast<std::uint32_t>(value));
}

void append_int(std::string& out, std::uint32_t field, std::int64_t value) {
  append_tag(out, field, WireType::kVarint);
  append_varint(out, static_cast<std::uint64_t>(value));
}

void append_bytes(std::string& out, std::uint32_t field, const std::string& bytes) {
  append_tag(out, field, WireType::kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

// Field numbers of tensorboard's event.proto and summary.proto.
namespace event {
constexpr std::uint32_t kWallTime = 1;
constexpr std::uint32_t kStep = 2;
constexpr std::uint32_t kFileVersion = 3;
constexpr std::uint32_t kSummary = 5;
constexpr std::uint32_t kSessionLog = 7;
}  // namespace event
namespace summary {
constexpr std::uint32_t kValue = 1;
constexpr std::uint32_t kTag = 1;
constexpr std::uint32_t kSimpleValue = 2;
}  // namespace summary
namespace session_log {
constexpr std::uint32_t kStatus = 1;
constexpr std::int64_t kStart = 1;
}  // namespace session_log

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event_head(std::int64_t step) {
  std::string out;
  append_double(out, event::kWallTime, wall_time());
  append_int(out, event::kStep, step);
  return out;
}

std::uint32_t masked_crc(const std::string& bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

std::string file_name() {
  static std::atomic<int> number{0};
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0')
    std::strcpy(host.data(), "localhost");
  return to_text("events.out.tfevents.", static_cast<std::int64_t>(wall_time()), ".", host.data(), ".",
                 getpid(), ".", number++);
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& directory, std::int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  path_ = directory / file_name();
  file_.open(path_, std::ios::binary);
  if (!file_) throw IoError(path_.string(), ": cannot be opened for writing: ", std::strerror(errno));
  std::string version;
  append_double(version, event::kWallTime, wall_time());
  append_bytes(version, event::kFileVersion, "brain.Event:2");
  write_record(version);
  if (first_step > 0) {
    // TensorBoard drops what it has from this step on when it reads a new session's start.
    std::string start = event_head(first_step + 1);
    std::string log;
    append_int(log, session_log::kStatus, session_log::kStart);
    append_bytes(start, event::kSessionLog, log);
    write_record(start);
  }
  flush();
}

void EventFile::add_scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  std::string content;
  for (const auto& [tag, number] : values) {
    std::string value;
    append_bytes(value, summary::kTag, tag);
    append_float(value, summary::kSimpleValue, static_cast<float>(number));
    append_bytes(content, summary::kValue, value);
  }
  std::string record = event_head(step);
  append_bytes(record, event::kSummary, content);
  write_record(record);
}

void EventFile::write_record(const std::string& event) {
  std::string length;
  append_little_endian(length, static_cast<std::uint64_t>(event.size()));
  std::string record = length;
  append_little_endian(record, masked_crc(length));
  record += event;
  append_little_endian(record, masked_crc(event));
  file_.write(record.data(), static_cast<std::streamsize>(record.size()));
}

void EventFile::flush() {
  errno = 0;
  file_.flush();
  if (!file_) throw IoError(path_.string(), ": cannot write: ", std::strerror(errno));
}

void TensorBoard::on_begin(const RunInfo& info) {
  log_every_ = info.log_every;
  total_steps_ = info.total_steps;
  file_ = std::make_unique<EventFile>(directory_, info.first_step);
}

void TensorBoard::on_step(const StepRecord& record) {
  if (!is_logged(record.step, log_every_, total_steps_)) return;
  std::vector<std::pair<std::string, double>> values = {
      {"train/loss", record.loss},
      {"train/learning_rate", record.learning_rate},
      {"train/grad_norm", record.grad_norm},
      {"train/tokens_per_second", record.tokens_per_second}};
  for (const auto& [name, value] : record.parts) values.emplace_back("train/" + name, value);
  file_->add_scalars(record.step, values);
  file_->flush();
}

void TensorBoard::on_evaluate(const Evaluation& evaluation) {
  std::vector<std::pair<std::string, double>> values;
  for (const auto& [language, figures] : evaluation.languages) {
    for (const auto& [name, value] : figures)
      values.emplace_back(to_text("eval/", language, "/", name), value);
  }
  file_->add_scalars(evaluation.step, values);
  file_->flush();
}

void TensorBoard::on_end(const TrainResult&) {
  file_.reset();
}

}  // namespace bitrain::train
