"""What Bazel's own toolchain packages load from @rules_java: the built-in rules."""

java_import = native.java_import
java_runtime = native.java_runtime
java_toolchain = native.java_toolchain
