from sacjax.data.sources.files import EXTENSIONS, OpenFiles, load  # noqa
