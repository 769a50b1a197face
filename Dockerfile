# The images of our own programs, one target each: orchestrator, calibration, logs and workspace of
# the hands, gateway and broker of the brain.
#
# BASE_IMAGE may be any Debian that has Python 3.11 or newer with its venv module. All packages
# come as wheels, so no stage needs a compiler. The images keep Python, what it needs of Debian, a
# plain shell, and our code: no pip, no package manager, no other interpreter.
ARG BASE_IMAGE=python:3.12.12-slim-bookworm

# ---- what is left of the base -------------------------------------------------------------------
FROM ${BASE_IMAGE} AS base
RUN groupadd --gid 10001 variet \
 && useradd --uid 10001 --gid variet --home-dir /state --no-create-home --shell /usr/sbin/nologin variet \
 && install -d -o variet -g variet -m 0755 /state \
 && rm -rf /etc/apt /usr/lib/apt /var/lib/apt /usr/lib/dpkg /usr/lib/systemd /usr/lib/udev /usr/lib/mime \
      /usr/lib/*/gconv /usr/lib/*/perl* /usr/lib/*/systemd /usr/lib/*/security /usr/lib/valgrind \
      /usr/lib/*/libapt* /usr/lib/*/libdb-* /usr/lib/*/libgnutls* /usr/lib/*/libp11* \
      /usr/share/bash* /usr/share/doc /usr/share/info /usr/share/locale /usr/share/man \
      /usr/share/perl* /usr/share/python-wheels /usr/local/include /usr/local/share \
      /var/lib/dpkg/info /var/cache/* /var/log/* \
 && for lib in /usr/lib/python3.* /usr/local/lib/python3.*; do \
      (cd "$lib" && rm -rf config-* ensurepip idlelib lib2to3 pydoc_data site-packages test tkinter turtledemo); \
    done \
 && find /usr/sbin /usr/local/bin /usr/bin ! -name 'python3*' ! -name sh ! -name dash ! -name env \
      ! -name cat ! -name id ! -name ls ! -name nologin ! -type d -delete

FROM scratch AS runtime
COPY --from=base / /
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STATE_DIR=/state
LABEL org.opencontainers.image.title="Variet" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
ENTRYPOINT ["python", "-P", "-m"]

# ---- packages -----------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS build
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/venv \
 && echo /app > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/variet.pth"
ENV INSTALL="/opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: --no-compile"

# The root file system is read-only and a start should take no time: what it imports, of Python's own
# modules too, gets its byte code at build time. All packages' would take three times the room.
COPY <<'EOF' /bytecode.py
import compileall
import importlib
import importlib.util
import sys

served = ["contracts.healthcheck"]
if importlib.util.find_spec("uvicorn"):
    served += ["uvicorn.loops.auto", "uvicorn.protocols.http.auto"]
for name in [*sys.argv[1:], *served]:
    importlib.import_module(name)
loaded = {str(getattr(module, "__file__", "")) for module in sys.modules.values()}
sources = sorted(path for path in loaded if path.endswith(".py") and path != __file__)
made = [compileall.compile_file(path, quiet=1) for path in sources]
sys.exit(not (compileall.compile_dir("/app", quiet=1) and all(made)))
EOF

FROM build AS server-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements-server.lock,target=/requirements.lock \
    $INSTALL -r /requirements.lock \
 && find /opt/venv -depth \( -name tests -o -name f2py -o -name '*.pyi' \) -exec rm -rf {} +

FROM build AS tools-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements-tools.lock,target=/requirements.lock \
    $INSTALL -r /requirements.lock

FROM build AS gateway-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements-gateway.lock,target=/requirements.lock \
    $INSTALL -r /requirements.lock \
 && find /opt/venv -depth \( -name tests -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -exec rm -rf {} +

# Our code is copied readable, also from a checkout that is private to its owner.

# ---- the orchestrator of the hands --------------------------------------------------------------
FROM runtime AS orchestrator
LABEL org.opencontainers.image.description="Agent, knowledge and HTTP API"
COPY --from=server-packages /opt/venv /opt/venv
COPY --chmod=755 contracts /app/contracts
COPY --chmod=755 models/*.py models/manifest.yaml /app/models/
COPY --chmod=755 tools /app/tools
COPY --chmod=755 orchestrator /app/orchestrator
COPY --chmod=755 services/orchestrator /app/services/orchestrator
RUN --mount=type=bind,from=build,source=/bytecode.py,target=/bytecode.py \
    python -P /bytecode.py orchestrator.__main__ orchestrator.serve orchestrator.embedded \
      orchestrator.knowledge.index_process langfuse openai.resources.chat orchestrator.store.postgres.opening qdrant_client
ENV BIND_ADDR=0.0.0.0 \
    PORT=8001
EXPOSE 8001
USER 10001:10001
VOLUME /state
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
  CMD ["python", "-P", "-m", "contracts.healthcheck", "http://127.0.0.1:8001/ready"]
CMD ["orchestrator"]

# ---- the tool servers ---------------------------------------------------------------------------
FROM runtime AS tools
COPY --from=tools-packages /opt/venv /opt/venv
COPY --chmod=755 contracts /app/contracts
COPY --chmod=755 tools/*.py /app/tools/
ENV TOOL_HOST=0.0.0.0 \
    TOOL_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
  CMD ["python", "-P", "-m", "contracts.healthcheck", "http://127.0.0.1:8000/health"]

FROM tools AS calibration
LABEL org.opencontainers.image.description="Tools for calibration maps"
COPY --chmod=755 tools/calibration /app/tools/calibration
RUN --mount=type=bind,from=build,source=/bytecode.py,target=/bytecode.py \
    python -P /bytecode.py tools.calibration.__main__ tools.calibration.server
USER 10001:10001
CMD ["tools.calibration", "serve"]

FROM tools AS logs
LABEL org.opencontainers.image.description="Tools for log files"
COPY --chmod=755 tools/logs /app/tools/logs
RUN --mount=type=bind,from=build,source=/bytecode.py,target=/bytecode.py \
    python -P /bytecode.py tools.logs.__main__ tools.logs.server
USER 10001:10001
CMD ["tools.logs", "serve"]

FROM tools AS workspace
LABEL org.opencontainers.image.description="Tools for files, patches and tests in the workspace"
COPY --chmod=755 tools/calibration /app/tools/calibration
COPY --chmod=755 tools/workspace /app/tools/workspace
RUN --mount=type=bind,from=build,source=/bytecode.py,target=/bytecode.py \
    python -P /bytecode.py tools.workspace.__main__ tools.workspace.server pytest
USER 10001:10001
CMD ["tools.workspace", "serve"]

# ---- the brain ----------------------------------------------------------------------------------
FROM runtime AS brain
COPY --from=gateway-packages /opt/venv /opt/venv
COPY --chmod=755 contracts /app/contracts

FROM brain AS gateway
LABEL org.opencontainers.image.description="The brain's front door: one OpenAI-compatible port"
COPY --chmod=755 models/*.py models/manifest.yaml /app/models/
COPY --chmod=755 models/gguf /app/models/gguf
COPY --chmod=755 services/gateway /app/services/gateway
# New volumes take their rights from here: whoever VARIET_UID is writes the first, and so do the
# engines of that user the second.
RUN --mount=type=bind,from=build,source=/bytecode.py,target=/bytecode.py \
    python -P /bytecode.py services.gateway.__main__ services.gateway.assembly \
 && python -P -c "import os; os.mkdir('/slots'); [os.chmod(path, 0o1777) for path in ('/state', '/slots')]"
ENV GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=8000 \
    GATEWAY_STATE_DIR=/state \
    MODELS_DIR=/config \
    MODEL_STORE=/models
EXPOSE 8000
USER 10001:10001
VOLUME /state
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
  CMD ["python", "-P", "-m", "contracts.healthcheck", "http://127.0.0.1:8000/ready"]
CMD ["services.gateway"]

# Root, as the Docker engine's socket is root's: without a capability, and without a network.
FROM brain AS broker
LABEL org.opencontainers.image.description="Lets the gateway at those calls of Docker that engines need"
COPY --chmod=755 models/__init__.py models/images.py /app/models/
COPY --chmod=755 services/images.yaml /app/services/images.yaml
COPY --chmod=755 services/broker /app/services/broker
RUN --mount=type=bind,from=build,source=/bytecode.py,target=/bytecode.py \
    python -P /bytecode.py services.broker.__main__ services.broker.running
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --start-interval=1s --retries=3 \
  CMD ["python", "-P", "-m", "services.broker", "--check"]
CMD ["services.broker"]
