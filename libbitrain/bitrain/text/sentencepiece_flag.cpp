// libsentencepiece and libc10 both export a variable FLAGS_minloglevel: an object of 32 bytes there, an int
// here. The loader gives both the one it finds first. With libc10's, sentencepiece writes over libc10's next
// flag, after which LibTorch aborts the process where it would throw (when memory is short, say). A third
// one, found before either and large enough, keeps them from each other's memory. libbitrain/CMakeLists.txt
// makes the linker take this file.

extern "C" {
alignas(64) [[gnu::visibility("default"), gnu::used]] unsigned char FLAGS_minloglevel[64] = {};
}
