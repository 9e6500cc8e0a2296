# Sourced by the scripts beside it: fetches Debian packages without installing them.

# fetch_package FOLDER NAME VERSION SHA256: unpacks the package into FOLDER. apt checks what it downloads against
# Debian's signed lists, whatever the version; the version that these scripts were written for has to have the hash.
fetch_package() {
  local folder="$1" name="$2" pinned="$3" sha256="$4" downloads version file
  downloads="$(mktemp -d "$folder/.download.XXXXXX")"
  if ! (cd "$downloads" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$name"); then
    echo "$(basename "$0"): apt-get cannot download $name; run 'apt-get update' first (Debian 12 has it)" >&2
    return 1
  fi
  file="$(echo "$downloads"/*.deb)"
  version="$(dpkg-deb -f "$file" Version)"
  if [ "$version" = "$pinned" ]; then
    echo "$sha256  $file" | sha256sum --quiet -c - || return 1
  else
    echo "$(basename "$0"): note: $name is at $version, written for $pinned; checked by apt's signature only" >&2
  fi
  dpkg-deb -x "$file" "$folder"
  rm -r "$downloads"
}
