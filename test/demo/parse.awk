# Debian package index -> COPY text: one line for each package, fields package,
# version, section, maintainer, architecture, installed size, depends,
# homepage, sha256, description, and a report: the whole paragraph.

function flush_row() {
	if (f["Package"] == "")
		return
	print quoted("Package"), quoted("Version"), quoted("Section"), \
		quoted("Maintainer"), quoted("Architecture"), number("Installed-Size"), \
		quoted("Depends"), quoted("Homepage"), quoted("SHA256"), \
		quoted("Description"), whole
	delete f
	whole = ""
}

function quoted(name) {
	return name in f ? f[name] : "\\N"
}

function number(name) {
	return f[name] ~ /^[0-9]+$/ ? f[name] : "\\N"
}

BEGIN { OFS = "\t" }

{
	gsub(/\\/, "\\\\")
	gsub(/\t/, "\\t")
	gsub(/\r/, "\\r")
}

/^$/ { flush_row(); next }

{ whole = whole == "" ? $0 : whole "\\n" $0 }

/^[^ ]/ {
	at = index($0, ":")
	name = substr($0, 1, at - 1)
	f[name] = substr($0, at + 2)
	next
}

{ f[name] = f[name] "\\n" substr($0, 2) }

END { flush_row() }
