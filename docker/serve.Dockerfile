# The scoring API on CPUs: docker build -f docker/serve.Dockerfile -t posttrain-serve .
#   docker run -p 8000:8000 -e POSTTRAIN_API_KEYS=secret -v "$PWD/reward_models:/rewards:ro" posttrain-serve \
#     /rewards/math.yaml --host 0.0.0.0
# The reward `code` isolates programs with namespaces, which a container must be allowed to make:
#   --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1
# A version of Debian's goes with its next security update, and a pinned one could not be built again.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 scorer

# An index with the CPU build of torch, where the default one serves a CUDA build: --build-arg TORCH_INDEX=...
# A layer of its own: it stays when the code changes. (The option in front of torch is taken for a package.)
ARG TORCH_INDEX
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0

COPY . /src
RUN pip install --constraint /src/requirements/constraints.txt '/src[serve,instructions]' && rm -rf /src

USER 1000
WORKDIR /home/scorer
EXPOSE 8000
ENTRYPOINT ["posttrain", "serve"]
